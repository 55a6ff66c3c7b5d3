//! Which node should own which partition: the same answer on all nodes that see the same ones live.
//!
//! Rendezvous hashing, with a cap so that no node has more than its share: the partitions are given out in order, each to
//! the node with the greatest hash of both that is not full yet.

use rapidhash::v3::rapidhash_v3;

/// The place in `nodes` of the one that should own each partition; empty if there are no nodes.
pub fn preferred(partitions: u16, nodes: &[&str]) -> Vec<usize> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let cap = (partitions as usize).div_ceil(nodes.len());
    let mut owned = vec![0_usize; nodes.len()];
    let mut key = Vec::new();
    let mut score = |node: &str, partition: u16| {
        key.clear();
        key.extend_from_slice(&partition.to_le_bytes());
        key.extend_from_slice(node.as_bytes());
        rapidhash_v3(&key)
    };
    (0..partitions)
        .map(|partition| {
            let free = (0..nodes.len()).filter(|&n| owned[n] < cap);
            let best = free.max_by_key(|&n| (score(nodes[n], partition), n));
            let best = best.expect("all nodes together have room for all partitions");
            owned[best] += 1;
            best
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("node-{n}")).collect()
    }

    fn owners(partitions: u16, nodes: &[String]) -> Vec<String> {
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        preferred(partitions, &nodes).into_iter().map(|n| nodes[n].to_string()).collect()
    }

    #[test]
    fn no_node_has_more_than_its_share() {
        for (partitions, count) in [(64, 1), (64, 3), (64, 5), (16, 3), (1, 4), (128, 32)] {
            let nodes = names(count);
            let owners = owners(partitions, &nodes);
            assert_eq!(owners.len(), partitions as usize);
            for node in &nodes {
                let owned = owners.iter().filter(|owner| *owner == node).count();
                assert!(owned <= (partitions as usize).div_ceil(count), "{owned} of {partitions} by {count}");
            }
        }
        assert!(preferred(64, &[]).is_empty());
    }
}
