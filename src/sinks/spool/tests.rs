use std::fs::{self, File};

use super::*;
use crate::aggregate::Sum;
use crate::protocol::Kind;
use crate::series::Series;
use crate::snapshot::CounterPoint;

fn snapshot(n: u64) -> Snapshot {
    let point = |m: u64| {
        let mut sum = Sum::default();
        sum.add((n * 100 + m) as f64);
        CounterPoint { series: Series::new(Kind::Counter, &format!("c{m}"), &[]), sum }
    };
    // One record more in each.
    Snapshot { sequence: n, end: n as f64, counters: (0..=n).map(point).collect(), ..Snapshot::default() }
}

fn options(folder: &Path) -> SpoolOptions {
    SpoolOptions { path: folder.to_path_buf(), ..SpoolOptions::default() }
}

/// Records that were lost since this was last asked for.
fn records_lost(spool: &mut Spool) -> u64 {
    spool.take_changes().lost.iter().map(|(_, records)| records).sum()
}

/// Everything that is left, in order, each with the right values; and what was lost.
fn drain(spool: &mut Spool) -> (Vec<u64>, u64) {
    let (mut seen, mut lost) = (Vec::new(), 0);
    loop {
        let found = spool.front(0.0);
        lost += records_lost(spool);
        let Some((position, found)) = found else { break };
        let n = found.sequence;
        assert_eq!(found.len() as u64, n + 1);
        for (m, point) in found.counters.iter().enumerate() {
            assert_eq!(point.sum.value(), (n * 100 + m as u64) as f64);
        }
        seen.push(n);
        spool.remove(position);
    }
    assert_eq!((spool.records(), spool.is_empty()), (0, true));
    (seen, lost)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    all.sort();
    all
}

#[test]
fn what_was_appended_comes_back_in_order_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, lost) = Spool::open(options(folder.path())).expect("opened");
    assert!(lost.is_empty() && spool.is_empty());
    for n in 0..5 {
        spool.append(&snapshot(n)).expect("appended");
    }
    let first = spool.front(0.0);
    spool.remove(first.expect("one").0);
    // A second process must not read it beside us.
    assert!(Spool::open(options(folder.path())).is_err());
    drop(spool);
    let (mut spool, lost) = Spool::open(options(folder.path())).expect("opened");
    assert_eq!((lost, spool.records(), spool.oldest()), (Vec::new(), 2 + 3 + 4 + 5, Some(1.0)));
    spool.append(&snapshot(5)).expect("appended");
    assert_eq!(drain(&mut spool), (vec![1, 2, 3, 4, 5], 0));
    assert!(segments(folder.path()).is_empty());
    drop(spool);
    let (mut spool, _) = Spool::open(options(folder.path())).expect("opened");
    assert_eq!(drain(&mut spool), (vec![], 0));
}

#[test]
fn a_segment_cut_at_any_byte_loses_what_was_cut_and_nothing_else() {
    let origin = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(options(origin.path())).expect("opened");
    let mut ends = vec![0];
    for n in 0..4 {
        spool.append(&snapshot(n)).expect("appended");
        ends.push(spool.bytes());
    }
    drop(spool);
    // The restart begins another segment.
    let (mut spool, _) = Spool::open(options(origin.path())).expect("opened");
    spool.append(&snapshot(4)).expect("appended");
    drop(spool);
    let all = segments(origin.path());
    assert_eq!(all.len(), 2);
    let whole = fs::read(&all[0]).expect("read");
    for cut in 0..=whole.len() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(all[0].file_name().expect("a name")), &whole[..cut]).expect("written");
        fs::copy(&all[1], folder.path().join(all[1].file_name().expect("a name"))).expect("copied");
        fs::copy(origin.path().join("cursor"), folder.path().join("cursor")).expect("copied");
        let (mut spool, lost) = Spool::open(options(folder.path())).expect("opened");
        let left = ends.iter().filter(|&&end| end <= cut as u64).count() as u64 - 1;
        let expected: Vec<u64> = (0..left).chain([4]).collect();
        let cut_records: u64 = (left..4).map(|n| n + 1).sum();
        let (seen, more) = drain(&mut spool);
        let told = lost.iter().map(|(_, records)| records).sum::<u64>() + more;
        assert!(seen == expected && told == cut_records, "cut at {cut}: {seen:?}, lost {told} of {cut_records}");
    }
}

#[test]
fn making_sure_that_a_spool_can_be_opened_leaves_it_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(options(folder.path())).expect("opened");
    spool.append(&snapshot(1)).expect("appended");
    assert!(Spool::check(&options(folder.path())).is_err(), "it is used");
    Spool::check_held(&options(folder.path())).expect("it is used, and can be handed over");
    let bytes = spool.bytes();
    drop(spool);
    File::options()
        .write(true)
        .open(&segments(folder.path())[0])
        .and_then(|file| file.set_len(bytes - 1))
        .expect("cut");
    for check in [Spool::check, Spool::check_held] {
        check(&options(folder.path())).expect("it can be used");
    }
    let (_, lost) = Spool::open(options(folder.path())).expect("opened");
    assert_eq!(lost, [("spool_damaged", 2)]);
}

#[test]
fn a_byte_that_is_wrong_anywhere_costs_one_interval_at_most_and_is_counted() {
    let origin = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(options(origin.path())).expect("opened");
    for n in 0..3 {
        spool.append(&snapshot(n)).expect("appended");
    }
    drop(spool);
    let (mut spool, _) = Spool::open(options(origin.path())).expect("opened");
    spool.append(&snapshot(3)).expect("appended");
    drop(spool);
    let all = segments(origin.path());
    let whole = fs::read(&all[0]).expect("read");
    let bits = (0..whole.len()).map(|at| (at, 1_u8 << (at % 8), 1));
    let bytes = (0..whole.len()).step_by(3).map(|at| (at, 0xff, 1));
    let many = (0..whole.len() - HEAD).step_by(7).map(|at| (at, 0xff, HEAD));
    let mut intact = 0;
    for (at, flipped, length) in bits.chain(bytes).chain(many) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut wrong = whole.clone();
        wrong[at..at + length].iter_mut().for_each(|byte| *byte ^= flipped);
        fs::write(folder.path().join(all[0].file_name().expect("a name")), &wrong).expect("written");
        fs::copy(&all[1], folder.path().join(all[1].file_name().expect("a name"))).expect("copied");
        fs::copy(origin.path().join("cursor"), folder.path().join("cursor")).expect("copied");
        let (mut spool, lost) = Spool::open(options(folder.path())).expect("opened");
        let (seen, more) = drain(&mut spool);
        let told = lost.iter().map(|(_, records)| records).sum::<u64>() + more;
        let missing: u64 = (0..4).filter(|n| !seen.contains(n)).map(|n| n + 1).sum();
        // What is wrong in many bytes may lie in two frames.
        let least = if length == 1 { 3 } else { 2 };
        assert!(seen.len() >= least && seen.is_sorted() && seen.ends_with(&[3]), "{length} at {at}: {seen:?}");
        assert_eq!(told, missing, "{length} at {at}");
        intact += usize::from(seen.len() == 4);
    }
    // A head with one wrong bit is corrected.
    assert_eq!(intact, 3 * HEAD);
}

#[test]
fn a_wrong_bit_in_the_last_head_of_all_costs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(options(folder.path())).expect("opened");
    for n in 0..2 {
        spool.append(&snapshot(n)).expect("appended");
    }
    let last = spool.segments[0].frames[1].offset as usize - HEAD;
    drop(spool);
    let path = segments(folder.path()).remove(0);
    let whole = fs::read(&path).expect("read");
    for bit in 0..HEAD * 8 {
        let mut wrong = whole.clone();
        wrong[last + bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &wrong).expect("written");
        let (spool, lost) = Spool::open(options(folder.path())).expect("opened");
        assert_eq!((spool.records(), lost), (3, Vec::new()), "bit {bit}");
    }
}

#[test]
fn a_full_spool_gives_its_oldest_up_and_counts_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = SpoolOptions { max_bytes: 8000, ..options(folder.path()) };
    let (mut spool, _) = Spool::open(small.clone()).expect("opened");
    let (mut lost, mut offered) = (0, 0);
    for n in 0..60 {
        spool.append(&snapshot(n)).expect("appended");
        lost += records_lost(&mut spool);
        offered += n + 1;
        assert!(spool.bytes() <= 8000);
        assert_eq!(spool.records() + lost, offered);
    }
    drop(spool);
    let (mut spool, gone) = Spool::open(small).expect("opened");
    assert!(gone.is_empty(), "{gone:?}");
    let (seen, _) = drain(&mut spool);
    assert!(seen.len() > 3 && seen.ends_with(&[59]) && seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
}

#[test]
fn what_is_too_old_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let aging = SpoolOptions { max_age: Duration::from_secs(10), ..options(folder.path()) };
    let (mut spool, _) = Spool::open(aging).expect("opened");
    for n in 0..5 {
        spool.append(&snapshot(n)).expect("appended");
    }
    let found = spool.front(12.5).map(|(_, found)| found.sequence);
    assert_eq!((found, spool.take_changes().lost), (Some(3), vec![("spool_expired", 1 + 2 + 3)]));
}

#[test]
fn a_disk_that_takes_nothing_is_told_and_leaves_nothing_half() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(options(folder.path())).expect("opened");
    spool.append(&snapshot(1)).expect("appended");
    // A file that was opened for reading takes nothing.
    let path = segments(folder.path()).remove(0);
    spool.writer = Some(Box::new(File::open(&path).expect("opened")));
    assert!(spool.append(&snapshot(2)).is_err());
    assert_eq!(spool.records(), 2);
    // The next goes to another segment.
    spool.append(&snapshot(3)).expect("appended");
    assert_eq!(drain(&mut spool), (vec![1, 3], 0));
}

#[test]
fn what_is_delivered_out_of_turn_is_not_delivered_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(options(folder.path())).expect("opened");
    for n in 0..4 {
        spool.append(&snapshot(n)).expect("appended");
    }
    spool.remove(2);
    assert_eq!(spool.records(), 1 + 2 + 4);
    assert_eq!(drain(&mut spool), (vec![0, 1, 3], 0));
}

#[test]
fn what_made_room_is_counted_also_if_nothing_is_written_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(SpoolOptions { max_bytes: 8000, ..options(folder.path()) }).expect("opened");
    let (mut lost, mut lost_by_failures, mut appended) = (0, 0, 0);
    for n in 0..60 {
        // No segment can be begun where a folder is.
        let blocked = folder.path().join(format!("{:016x}.segment", spool.next.0));
        fs::create_dir(&blocked).expect("a folder");
        spool.writer = None;
        assert!(spool.append(&snapshot(n)).is_err());
        let gone = records_lost(&mut spool);
        lost += gone;
        lost_by_failures += gone;
        assert_eq!(spool.records() + lost, appended);
        fs::remove_dir(&blocked).expect("removed");
        spool.append(&snapshot(n)).expect("appended");
        lost += records_lost(&mut spool);
        appended += n + 1;
        assert_eq!(spool.records() + lost, appended);
    }
    assert!(lost_by_failures > 0);
}

#[test]
fn a_segment_that_cannot_be_removed_is_not_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut spool, _) = Spool::open(SpoolOptions { max_bytes: 8000, ..options(folder.path()) }).expect("opened");
    let mut n = 0;
    while spool.bytes() < 7000 {
        spool.append(&snapshot(n)).expect("appended");
        n += 1;
    }
    spool.take_changes();
    let (held, oldest) = (spool.records(), spool.segments[0].path.clone());
    // A folder is not removed as a file.
    fs::rename(&oldest, folder.path().join("aside")).expect("renamed");
    fs::create_dir(&oldest).expect("a folder");
    assert!((0..20).any(|_| spool.append(&snapshot(50)).is_err()));
    let added = spool.take_changes();
    assert_eq!((spool.records(), added.lost), (held + added.appended, Vec::new()));
    fs::remove_dir(&oldest).expect("removed");
    fs::rename(folder.path().join("aside"), &oldest).expect("renamed");
    spool.append(&snapshot(50)).expect("appended");
    let gone = records_lost(&mut spool);
    assert_eq!(spool.records() + gone, held + added.appended + 51);
    assert_eq!(drain(&mut spool).1, 0);
}
