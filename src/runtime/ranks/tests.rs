use super::*;

#[test]
fn alone_everything_is_as_without() {
    let ranks = Ranks::alone();
    assert_eq!((ranks.rank(), ranks.size(), ranks.is_first()), (0, 1, true));
    assert_eq!(ranks.mine(&[3, 1, 2]), [0, 1, 2]);
    let doubled = ranks.share(&[1, 1], |mine| {
        Ok::<_, Ended>(mine.iter().map(|i| i * 2).collect())
    });
    assert_eq!(doubled.unwrap(), [0, 2]);
    assert_eq!(ranks.gather(b"x").unwrap(), [b"x"]);
    let mut numbers = [0.1, 0.2];
    let [first, second] = &mut numbers;
    ranks.sum_numbers(&mut [first, second]).unwrap();
    assert_eq!(numbers, [0.1, 0.2]);
}
