use crate::support::*;
use atp_pipeline::model::*;
use std::time::Instant;
use tch::*;
#[test]
fn tmpbench() {
    let m = smollm2();
    let toks: Vec<u32> = (0..200u32).map(|i| 100 + i * 7).collect();
    let _g = no_grad_guard();
    for b in [1usize, 8, 16] {
        let mut c = KvCache::new(m.config(), b, 400, Kind::Float, Device::Cpu);
        let t = Instant::now();
        for s in 0..b {
            m.prefill(&toks, &mut c, s, None);
        }
        let p = t.elapsed();
        let slots: Vec<usize> = (0..b).collect();
        let (mut ts, mut tl) = (0f64, 0f64);
        for i in 0..20 {
            let t = Instant::now();
            let h = m.step(&vec![5; b], &slots, &mut c, None);
            let t2 = Instant::now();
            let _l = m.next_token_logits(&h);
            if i > 3 {
                ts += (t2 - t).as_secs_f64();
                tl += t2.elapsed().as_secs_f64();
            }
        }
        println!(
            "b={b} prefill {:?} each, step {:.1} ms + head {:.1} ms",
            p / b as u32,
            ts / 16. * 1e3,
            tl / 16. * 1e3
        );
    }
}
