//! `fd_*`.

use coracle_vfs::{MountOptions, Volume};

use super::*;

#[tokio::test]
async fn a_file_is_written_and_read_at_a_position() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            // Two buffers, `hello ` and `world`, with an empty one between.
            ("path_open 3 0 'f' 1 66 0 0 100", 0),
            ("get32 100", 4),
            ("put 300 'hello world'", 0),
            ("iov 0 300 6", 0),
            ("iov 8 0 0", 0),
            ("iov 16 306 5", 0),
            ("fd_write 4 0 3 104", 0),
            ("get32 104", 11),
            ("fd_tell 4 112", 0),
            ("get64 112", 11),
            ("iov 24 400 100", 0),
            ("fd_read 4 24 1 104", 0),
            ("get32 104", 0),
            ("fd_pread 4 24 1 6 104", 0),
            ("get32 104", 5),
            ("same 400 'world'", 1),
            ("fd_tell 4 112", 0),
            ("get64 112", 11),
            ("put 500 'W'", 0),
            ("iov 32 500 1", 0),
            ("fd_pwrite 4 32 1 6 104", 0),
            ("fd_pwrite 4 32 1 -1 104", 22),
            ("fd_pread 4 24 1 0 104", 0),
            ("get32 104", 11),
            ("same 400 'hello World'", 1),
            ("fd_sync 4", 0),
            ("fd_datasync 4", 0),
            ("fd_advise 4 0 10 5", 0),
            ("fd_advise 4 0 10 6", 28),
            ("fd_close 4", 0),
            ("fd_close 4", 8),
            ("fd_read 4 24 1 104", 8),
        ],
    )
    .await;
}

/// The order of the three is one of the differences between the snapshots.
#[tokio::test]
async fn seeking_knows_its_three_beginnings() {
    let bench = Bench::new();
    for (module, [start, current, end]) in [(ONE, [0, 1, 2]), (ZERO, [2, 0, 1])] {
        let seek = |offset: i64, whence: i32, fd: u32| format!("fd_seek {fd} {offset} {whence} 112");
        let steps = [
            ("path_open 3 0 'f' 1 66 0 0 100".to_owned(), 0),
            ("fd_filestat_set_size 4 1000".into(), 0),
            (seek(10, start, 4), 0),
            ("get64 112".into(), 10),
            (seek(5, current, 4), 0),
            ("get64 112".into(), 15),
            (seek(-16, current, 4), 28),
            (seek(-1, end, 4), 0),
            ("get64 112".into(), 999),
            (seek(1, end, 4), 0),
            ("get64 112".into(), 1001),
            (seek(i64::MAX, current, 4), 28),
            (seek(0, current, 4), 0),
            ("get64 112".into(), 1001),
            (seek(0, 3, 4), 28),
            (seek(0, -1, 4), 28),
            (seek(-1, start, 4), 28),
            (seek(0, start, 3), 8),
            (seek(0, start, 0), 70),
            (seek(0, current, 1), 70),
            (seek(0, start, 77), 8),
            ("fd_tell 1 112".into(), 70),
        ];
        let steps: Vec<(&str, u64)> = steps.iter().map(|(step, answer)| (step.as_str(), *answer)).collect();
        run_in(&bench, module, &steps, |_| {}).await;
    }
}

#[tokio::test]
async fn appending_is_always_at_the_end() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_open 3 0 'f' 1 66 0 1 100", 0),
            ("put 300 'abc'", 0),
            ("iov 0 300 2", 0),
            ("fd_write 4 0 1 104", 0),
            ("iov 0 302 1", 0),
            ("iov 8 400 10", 0),
            ("fd_fdstat_get 4 200", 0),
            ("get16 202", 1),
            ("fd_write 4 0 1 104", 0),
            ("fd_tell 4 112", 0),
            ("get64 112", 3),
            ("fd_pread 4 8 1 0 104", 0),
            ("same 400 'abc'", 1),
            ("fd_fdstat_set_flags 4 0", 0),
            ("fd_pread 4 8 1 0 104", 0),
            ("fd_write 4 0 1 104", 0),
            ("fd_fdstat_set_flags 4 32", 28),
            ("fd_fdstat_set_flags 4 65536", 28),
            ("fd_fdstat_set_flags 4 31", 0),
            ("fd_fdstat_get 4 200", 0),
            ("get16 202", 31),
            ("fd_write 4 0 1 104", 0),
            ("fd_filestat_get 4 200", 0),
            ("fd_tell 4 112", 0),
            ("get64 112", 5),
        ],
    )
    .await;
}

/// The layouts of `filestat` differ: links have 64 or 32 bits.
#[tokio::test]
async fn what_is_told_of_files_lies_where_it_is_looked_for() {
    let bench = Bench::new();
    let open = [
        ("path_open 3 0 'f' 1 66 0 0 100", 0),
        ("fd_filestat_set_size 4 70", 0),
        ("path_link 3 0 'f' 3 'g'", 0),
        ("fd_filestat_set_times 4 1000000000 2000000000 5", 0),
        ("fd_filestat_set_times 4 0 0 3", 28),
        ("fd_filestat_set_times 4 0 0 12", 28),
        ("fd_filestat_set_times 4 0 0 16", 28),
        // What must not be written to.
        ("set64 264 -1", 0),
        ("set64 256 -1", 0),
    ];
    for (module, links, size) in [(ONE, ("get64 224", 2), 232), (ZERO, ("get32 220", 2), 224)] {
        let end = if module == ONE { ("get64 264", u64::MAX) } else { ("get64 256", u64::MAX) };
        let at = [format!("get64 {size}"), format!("get64 {}", size + 8), format!("get64 {}", size + 16)];
        for get in ["fd_filestat_get 4 200", "path_filestat_get 3 0 'g' 200", "path_filestat_get 3 1 'f' 200"]
        {
            let mut steps = open.to_vec();
            steps.extend([(get, 0), ("get8 216", 4), links]);
            steps.extend([(&*at[0], 70), (&*at[1], 1_000_000_000), (&*at[2], 2_000_000_000), end]);
            run_in(&bench, module, &steps, |_| {}).await;
        }
    }
    check(
        &bench,
        &[
            ("fd_filestat_get 3 200", 0),
            ("get8 216", 3),
            ("fd_filestat_get 0 200", 0),
            ("get8 216", 0),
            ("fd_filestat_get 9 200", 8),
            ("path_filestat_get 3 0 'none' 200", 44),
            ("path_filestat_get 3 2 'none' 200", 28),
            ("path_filestat_get 0 0 'f' 200", 54),
        ],
    )
    .await;
}

#[tokio::test]
async fn sizes_are_set_and_allocated() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_open 3 0 'f' 1 66 0 0 100", 0),
            ("fd_allocate 4 0 100", 0),
            ("fd_allocate 4 10 10", 0),
            ("fd_allocate 4 10 0", 28),
            ("fd_allocate 4 -1 2", 22),
            ("fd_allocate 4 9223372036854775807 1", 22),
            // More than there is, at once.
            ("fd_allocate 4 0 1125899906842624", 51),
            ("iov 0 300 200", 0),
            ("fd_pread 4 0 1 0 104", 0),
            ("get32 104", 100),
            ("fd_filestat_set_size 4 3", 0),
            ("fd_filestat_set_size 4 -1", 22),
            ("fd_pread 4 0 1 0 104", 0),
            ("get32 104", 3),
            ("path_open 3 0 'f' 0 2 0 0 100", 0),
            ("fd_filestat_set_size 5 3", 8),
            ("fd_allocate 5 0 3", 8),
            ("fd_filestat_set_size 3 3", 31),
            ("fd_allocate 3 0 1", 31),
            ("fd_allocate 1 0 1", 76),
        ],
    )
    .await;
}

/// What wasi-libc and Go ask before anything else.
#[tokio::test]
async fn descriptors_say_what_they_are() {
    let bench = Bench::new();
    let mut steps = vec![
        ("fd_prestat_get 3 200", 0),
        ("get32 200", 0),
        ("get32 204", 1),
        ("fd_prestat_dir_name 3 208 1", 0),
        ("same 208 '/'", 1),
        ("fd_prestat_dir_name 3 208 2", 0),
        ("fd_prestat_dir_name 3 208 0", 37),
        ("fd_prestat_get 0 200", 8),
        ("fd_prestat_get 4 200", 8),
        ("path_open 3 0 '.' 2 0 -1 0 100", 0),
        ("fd_prestat_get 4 200", 8),
        ("fd_fdstat_get 3 300", 0),
        ("get8 300", 3),
        ("get64 316", 0),
        ("path_open 3 0 'f' 1 66 0 0 100", 0),
        ("fd_fdstat_get 5 300", 0),
        ("get8 300", 4),
        // All that a file can do, and none of what a directory can.
        ("get64 308", 0x8e0_01ff),
        ("path_open 3 0 'f' 0 2 0 0 100", 0),
        ("fd_fdstat_get 6 300", 0),
        ("get64 308", 0x8a0_00bf),
    ];
    steps.retain(|(step, _)| *step != "get64 316"); // what a directory hands down, below
    check(&bench, &steps).await;
    let types = [("fd_fdstat_get 0 300", 0), ("get8 300", 0), ("fd_fdstat_get 1 300", 0), ("get8 300", 0)];
    check(&bench, &types).await;
    // A terminal is a character device that cannot seek: that is all that `isatty` goes by.
    let types = [
        ("fd_fdstat_get 0 300", 0),
        ("get8 300", 2),
        ("get64 308", 0x820_000a),
        ("fd_fdstat_get 2 300", 0),
        ("get8 300", 2),
        ("get64 308", 0x820_0048),
    ];
    run_in(&bench, ONE, &types, |spec| spec.tty = true).await;
    check(
        &bench,
        &[
            ("fd_fdstat_get 3 300", 0),
            ("get64 308", 0x7bf_fe19),
            ("get64 316", 0xfff_ffff),
            ("fd_fdstat_get 77 300", 8),
        ],
    )
    .await;
}

#[tokio::test]
async fn rights_can_be_given_up_and_not_taken_back() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_open 3 0 'f' 1 66 0 0 100", 0),
            ("fd_fdstat_set_rights 4 4 0", 0),
            ("fd_fdstat_set_rights 4 6 0", 76),
            ("fd_fdstat_set_rights 4 4 1", 76),
            ("iov 0 300 1", 0),
            ("fd_read 4 0 1 104", 8),
            ("fd_write 4 0 1 104", 8),
            ("fd_sync 4", 76),
            ("fd_filestat_get 4 200", 76),
            ("fd_fdstat_set_flags 4 1", 76),
            ("fd_fdstat_set_rights 9 0 0", 8),
            // A directory that hands down nothing but reading.
            ("path_open 3 0 '.' 2 0 0 0 100", 0),
            ("fd_fdstat_set_rights 5 8192 8194", 0),
            ("path_open 5 0 'f' 0 66 0 0 100", 0),
            ("fd_read 6 0 1 104", 0),
            ("fd_write 6 0 1 104", 8),
            ("fd_fdstat_set_rights 5 0 0", 0),
            ("path_open 5 0 'f' 0 2 0 0 100", 76),
        ],
    )
    .await;
}

#[tokio::test]
async fn numbers_are_given_and_moved() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_open 3 0 'a' 1 66 0 0 100", 0),
            ("path_open 3 0 'b' 1 66 0 0 100", 0),
            ("get32 100", 5),
            ("fd_close 4", 0),
            ("fd_renumber 5 4", 8),
            ("path_open 3 0 'c' 1 66 0 0 100", 0),
            ("get32 100", 4),
            ("iov 0 300 3", 0),
            ("fd_write 5 0 1 104", 0),
            ("fd_renumber 5 4", 0),
            ("fd_tell 4 112", 0),
            ("get64 112", 3),
            ("fd_tell 5 112", 8),
            ("fd_renumber 4 4", 0),
            ("fd_renumber 4 0", 0),
            ("fd_tell 0 112", 0),
            ("fd_renumber 9 0", 8),
            ("fd_close 0", 0),
            ("fd_close 1", 0),
            ("fd_close 2", 0),
            ("fd_close 3", 0),
            ("path_open 3 0 'c' 1 66 0 0 100", 8),
        ],
    )
    .await;
}

/// Both snapshots list the same: `.`, `..`, then the names, and a buffer that is full is not the end.
#[tokio::test]
async fn directories_are_listed_by_cookie() {
    let bench = Bench::new();
    let made = [("path_create_directory 3 'd'", 0), ("path_open 3 0 'd' 2 0 -1 0 100", 0)];
    let mut steps = made.to_vec();
    steps.extend([
        ("fd_readdir 4 1000 500 0 104", 0),
        ("get32 104", 51),
        ("get64 1000", 1),
        ("get32 1016", 1),
        ("get8 1020", 3),
        ("same 1024 '.'", 1),
        ("get64 1025", 2),
        ("same 1049 '..'", 1),
        ("path_open 4 0 'file' 1 66 0 0 100", 0),
        ("path_symlink 'file' 4 'link'", 0),
        ("path_create_directory 4 'sub'", 0),
        ("fd_readdir 4 1000 500 0 104", 0),
        ("get32 104", 51 + 28 + 28 + 27),
        ("get8 1071", 4),
        ("same 1075 'file'", 1),
        ("get8 1099", 7),
        ("same 1103 'link'", 1),
        ("get8 1127", 3),
        ("same 1131 'sub'", 1),
        // On from a cookie, and from one behind the end.
        ("fd_readdir 4 1000 500 3 104", 0),
        ("get32 104", 55),
        ("same 1024 'link'", 1),
        ("fd_readdir 4 1000 500 5 104", 0),
        ("get32 104", 0),
        ("fd_readdir 4 1000 500 -1 104", 0),
        ("get32 104", 0),
        // Back, into buffers that hold a name and a half, and none at all.
        ("fd_readdir 4 1000 40 2 104", 0),
        ("get32 104", 40),
        ("same 1024 'file'", 1),
        ("fd_readdir 4 1000 40 3 104", 0),
        ("same 1024 'link'", 1),
        ("fd_readdir 4 1000 10 0 104", 0),
        ("get32 104", 10),
        ("fd_readdir 4 1000 0 0 104", 0),
        ("get32 104", 0),
        // The inode is the file's own.
        ("fd_readdir 4 1000 500 2 104", 0),
        ("fd_filestat_get 5 2000", 0),
        ("get64 1008", 0),
    ]);
    let same_inode = steps.len() - 1;
    steps.remove(same_inode);
    steps.extend([
        ("put 3000 '        '", 0),
        ("fd_readdir 5 1000 500 0 104", 54),
        ("fd_readdir 0 1000 500 0 104", 54),
    ]);
    check(&bench, &steps).await;
}

/// What is listed in parts stays whole while files go: each name is told once.
#[tokio::test]
async fn a_listing_survives_what_it_lists() {
    let bench = Bench::new();
    let mut steps =
        vec![("path_create_directory 3 'd'".to_owned(), 0), ("path_open 3 0 'd' 2 0 -1 0 100".into(), 0)];
    for number in 0..100 {
        steps.push((format!("path_open 4 0 'n{number:03}' 1 64 0 0 100"), 0));
        steps.push(("fd_close 5".into(), 0));
    }
    // Past the dots, then one name at a time, each removed as soon as it is known.
    let mut cookie = 2;
    for number in 0..100 {
        steps.push((format!("fd_readdir 4 1000 30 {cookie} 104"), 0));
        steps.push((format!("same 1024 'n{number:03}'"), 1));
        steps.push((format!("path_unlink_file 4 'n{number:03}'"), 0));
        cookie += 1;
    }
    steps.push((format!("fd_readdir 4 1000 30 {cookie} 104"), 0));
    steps.push(("get32 104".into(), 0));
    let steps: Vec<(&str, u64)> = steps.iter().map(|(step, answer)| (step.as_str(), *answer)).collect();
    check(&bench, &steps).await;
}

/// A folder of the host behaves as memory does.
#[tokio::test]
async fn a_disk_is_read_and_written_too() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume::host(folder.path(), None).unwrap();
    let steps = [
        ("path_open 3 0 'data/f' 1 66 0 17 100", 0),
        ("put 300 'on a disk'", 0),
        ("iov 0 300 9", 0),
        ("fd_write *100 0 1 104", 0),
        ("iov 8 400 20", 0),
        ("fd_pread *100 8 1 3 104", 0),
        ("get32 104", 6),
        ("same 400 'a disk'", 1),
        ("fd_sync *100", 0),
        ("path_open 3 0 'data' 2 0 -1 0 108", 0),
        ("fd_sync *108", 0),
        ("fd_readdir *108 1000 500 2 104", 0),
        ("get32 104", 25),
        ("same 1024 'f'", 1),
        ("path_rename 3 'data/f' *108 'g'", 0),
        ("path_rename 3 'data/g' 3 'g'", 75),
        ("path_filestat_get *108 0 'g' 2000", 0),
        ("get8 2016", 4),
    ];
    run_in(&bench, ONE, &steps, |spec| {
        spec.mounts.add("/data", &volume, &MountOptions::default()).unwrap();
    })
    .await;
    assert_eq!(std::fs::read_to_string(folder.path().join("g")).unwrap(), "on a disk");
}

/// What is printed arrives whole, also in many pieces.
#[tokio::test]
async fn what_is_printed_arrives() {
    let bench = Bench::new();
    let steps = [
        ("put 300 'one, two'", 0),
        ("iov 0 300 5", 0),
        ("iov 8 305 3", 0),
        ("fd_write 1 0 2 104", 0),
        ("get32 104", 8),
        ("fd_write 2 8 1 104", 0),
        ("fd_write 0 8 1 104", 8),
        ("fd_read 1 8 1 104", 8),
        ("fd_pwrite 1 8 1 0 104", 70),
        ("fd_sync 1", 76),
        ("iov 0 1000 120000", 0),
        ("fd_write 1 0 1 104", 0),
        ("get32 104", 65536),
    ];
    let output = run_in(&bench, ZERO, &steps, |_| {}).await;
    assert!(output.starts_with("one, twotwo"));
    assert_eq!(output.len(), 11 + 65_536);
}
