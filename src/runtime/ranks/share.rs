//! Who does what: a division of work that every rank works out alike.

/// The rank that has each item, so that costs are level: the costliest first, each to the rank with the least so far.
/// Equal costs are dealt round.
pub fn owners(costs: &[u64], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&item| (std::cmp::Reverse(costs[item]), item));
    let mut loads = vec![(0_u64, 0_usize); ranks.max(1)];
    let mut owners = vec![0; costs.len()];
    for item in order {
        let least = (0..loads.len())
            .min_by_key(|&rank| (loads[rank], rank))
            .unwrap_or(0);
        loads[least].0 = loads[least].0.saturating_add(costs[item]);
        loads[least].1 += 1;
        owners[item] = least;
    }
    owners
}

/// Places of the items of one rank, in order.
pub fn owned(owners: &[usize], rank: usize) -> Vec<usize> {
    (0..owners.len())
        .filter(|&item| owners[item] == rank)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_work_is_dealt_round_and_unequal_work_levelled() {
        assert_eq!(owners(&[5; 6], 3), [0, 1, 2, 0, 1, 2]);
        assert_eq!(owners(&[9, 1, 1, 1, 8, 1], 2), [0, 1, 0, 1, 1, 0]);
        assert_eq!(owners(&[0, 0, 0, 0], 2), [0, 1, 0, 1]);
        let costs: Vec<u64> = (0..100).map(|i| 100 + i * i % 37).collect();
        let owners = owners(&costs, 4);
        let load = |rank| owned(&owners, rank).iter().map(|&i| costs[i]).sum::<u64>();
        let loads: Vec<u64> = (0..4).map(load).collect();
        assert!(
            loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 137,
            "{loads:?}"
        );
        assert_eq!(loads.iter().sum::<u64>(), costs.iter().sum::<u64>());
    }
}
