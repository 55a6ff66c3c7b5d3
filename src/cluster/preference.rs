//! Which node should own which partition: the same answer on all nodes that see the same ones live, and the same owners.
//!
//! Every node has its share, as many as all others or one more; those who own most have the one more. Within its share a
//! node keeps what it owns. What nobody owns, and what is beyond a share, goes to the node with the greatest hash of both
//! (rendezvous hashing) that has room. So nodes that come or go move no more than their own share. With hashes and a bound
//! alone, one that joins pushes partitions from node to node: up to 38 of 128 moved where 4 would do.

use std::cmp::Reverse;

use rapidhash::v3::rapidhash_v3;

/// The place in `nodes` of the one that should own each partition, of which `owners` are the places of those who do; empty
/// if there are no nodes.
pub fn preferred(nodes: &[&str], owners: &[Option<usize>]) -> Vec<usize> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut loads = vec![0_usize; nodes.len()];
    owners.iter().flatten().for_each(|&node| loads[node] += 1);
    let mut by_load: Vec<usize> = (0..nodes.len()).collect();
    by_load.sort_by_key(|&node| Reverse(loads[node]));
    let mut room = vec![owners.len() / nodes.len(); nodes.len()];
    by_load.iter().take(owners.len() % nodes.len()).for_each(|&node| room[node] += 1);

    let mut key = Vec::new();
    let mut score = |node: usize, partition: usize| {
        key.clear();
        key.extend_from_slice(&(partition as u16).to_le_bytes());
        key.extend_from_slice(nodes[node].as_bytes());
        rapidhash_v3(&key)
    };
    let owned = owners.iter().enumerate().filter_map(|(partition, owner)| Some((partition, (*owner)?)));
    let mut owned: Vec<_> = owned.map(|(partition, node)| (score(node, partition), partition, node)).collect();
    owned.sort_unstable();
    let mut wanted = vec![None; owners.len()];
    for (_, partition, node) in owned.into_iter().rev() {
        if room[node] > 0 {
            room[node] -= 1;
            wanted[partition] = Some(node);
        }
    }
    let wanted = wanted.into_iter().enumerate();
    wanted
        .map(|(partition, kept)| {
            kept.unwrap_or_else(|| {
                let free = (0..nodes.len()).filter(|&node| room[node] > 0);
                let best = free.max_by_key(|&node| (score(node, partition), node));
                let best = best.expect("all nodes together have room for all partitions");
                room[best] -= 1;
                best
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes that come and go, and what they own when all have what they should.
    struct Fleet {
        nodes: Vec<String>,
        owners: Vec<String>,
    }

    impl Fleet {
        fn new(partitions: usize) -> Fleet {
            Fleet { nodes: Vec::new(), owners: vec![String::new(); partitions] }
        }

        /// Has all partitions go where they should; how many went.
        fn assign(&mut self) -> usize {
            self.nodes.sort();
            let nodes: Vec<&str> = self.nodes.iter().map(String::as_str).collect();
            let place = |owner: &String| nodes.iter().position(|node| node == owner);
            let owners: Vec<Option<usize>> = self.owners.iter().map(place).collect();
            let mut moved = 0;
            for (owner, node) in self.owners.iter_mut().zip(preferred(&nodes, &owners)) {
                moved += usize::from(*owner != self.nodes[node]);
                owner.clone_from(&self.nodes[node]);
            }
            for node in &self.nodes {
                let owned = self.owners.iter().filter(|owner| *owner == node).count();
                let (all, count) = (self.owners.len(), self.nodes.len());
                assert!((all / count..=all.div_ceil(count)).contains(&owned), "{owned} of {all} by {count}");
            }
            moved
        }
    }

    #[test]
    fn nobody_has_more_than_a_share_and_who_comes_or_goes_moves_no_more_than_that() {
        for partitions in [1, 16, 64, 128] {
            let mut fleet = Fleet::new(partitions);
            for count in 1..=40 {
                fleet.nodes.push(format!("node-{}", count * 7919 % 41));
                assert!(fleet.assign() <= partitions.div_ceil(count), "{count}th of {partitions}");
                assert_eq!(fleet.assign(), 0);
            }
            while fleet.nodes.len() > 1 {
                let share = partitions.div_ceil(fleet.nodes.len());
                fleet.nodes.remove(fleet.nodes.len() * 3 / 5);
                assert!(fleet.assign() <= share);
            }
        }
        assert!(preferred(&[], &[None; 64]).is_empty());
    }
}
