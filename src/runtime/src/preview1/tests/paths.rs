//! `path_*`.

use super::*;

#[tokio::test]
async fn opening_does_what_its_flags_say() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_open 3 0 'f' 0 2 0 0 100", 44),
            ("path_open 3 0 'f' 1 66 0 0 100", 0),
            ("path_open 3 0 'f' 5 66 0 0 100", 20),
            ("path_open 3 0 'f' 16 66 0 0 100", 28),
            ("path_open 3 2 'f' 0 66 0 0 100", 28),
            ("path_open 3 0 'f' 0 66 0 32 100", 28),
            ("path_open 3 0 'f' 2 2 0 0 100", 54),
            ("path_open 3 0 'f/' 0 2 0 0 100", 54),
            ("path_open 4 0 'f' 0 2 0 0 100", 54),
            ("path_open 1 0 'f' 0 2 0 0 100", 54),
            ("path_open 9 0 'f' 0 2 0 0 100", 8),
            ("path_open 3 0 '' 0 2 0 0 100", 44),
            ("path_open 3 0 '/f' 0 2 0 0 100", 63),
            ("path_open 3 0 '../f' 0 2 0 0 100", 63),
            ("path_open 3 0 'a\0b' 1 2 0 0 100", 25),
            ("path_open 3 0 '.' 0 64 0 0 100", 31),
            ("path_open 3 0 '.' 2 66 0 0 100", 31),
            // What is cut is cut also by who only asked to read.
            ("fd_filestat_set_size 4 9", 0),
            ("path_open 3 0 'f' 8 0 0 0 100", 0),
            ("path_open 3 0 'f' 0 2 0 0 100", 0),
            ("iov 0 300 10", 0),
            ("fd_read 6 0 1 104", 0),
            ("get32 104", 0),
            ("fd_write 6 0 1 104", 8),
            ("fd_read 5 0 1 104", 8),
            // Links are followed where it is asked for.
            ("path_symlink 'f' 3 'l'", 0),
            ("path_open 3 0 'l' 0 2 0 0 100", 32),
            ("path_open 3 1 'l' 0 2 0 0 100", 0),
            ("path_symlink 'l2' 3 'l2'", 0),
            ("path_open 3 1 'l2' 0 2 0 0 100", 32),
        ],
    )
    .await;
}

#[tokio::test]
async fn names_are_made_moved_and_removed() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_create_directory 3 'd'", 0),
            ("path_create_directory 3 'd'", 20),
            ("path_create_directory 3 'no/d'", 44),
            ("path_create_directory 3 'd/e'", 0),
            ("path_remove_directory 3 'd'", 55),
            ("path_unlink_file 3 'd'", 31),
            ("path_open 3 0 'd' 2 0 -1 0 100", 0),
            ("path_open 4 0 'f' 1 66 0 0 100", 0),
            ("path_remove_directory 3 'd/f'", 54),
            ("path_rename 4 'f' 3 'g'", 0),
            ("path_rename 4 'f' 3 'g'", 44),
            ("path_filestat_get 3 0 'g' 200", 0),
            ("path_link 3 0 'g' 4 'h'", 0),
            ("path_link 3 0 'g' 4 'h'", 20),
            ("path_link 3 0 'd' 3 'k'", 63),
            ("path_rename 3 'g' 3 'd'", 31),
            ("path_rename 3 'd' 3 'g'", 54),
            ("path_unlink_file 3 'g'", 0),
            ("path_unlink_file 3 'g'", 44),
            ("path_unlink_file 4 'h'", 0),
            ("path_remove_directory 4 'e'", 0),
            ("path_remove_directory 3 'd'", 0),
            ("path_create_directory 4 'x'", 44),
            ("path_rename 9 'g' 3 'h'", 8),
            ("path_rename 3 'g' 9 'h'", 8),
            ("path_rename 3 'g' 5 'h'", 54),
        ],
    )
    .await;
}

#[tokio::test]
async fn links_are_made_and_read() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_symlink 'a/target' 3 'l'", 0),
            ("path_symlink 'a/target' 3 'l'", 20),
            ("path_symlink '/absolute' 3 'm'", 63),
            ("path_symlink '' 3 'm'", 44),
            ("path_readlink 3 'l' 200 100 104", 0),
            ("get32 104", 8),
            ("same 200 'a/target'", 1),
            ("set64 300 -1", 0),
            ("path_readlink 3 'l' 300 3 104", 0),
            ("get32 104", 3),
            ("same 300 'a/t'", 1),
            ("get8 303", 255),
            ("path_readlink 3 '.' 200 100 104", 28),
            ("path_readlink 3 'none' 200 100 104", 44),
            ("path_filestat_get 3 0 'l' 200", 0),
            ("get8 216", 7),
            ("path_filestat_get 3 1 'l' 200", 44),
            ("path_filestat_set_times 3 0 'l' 5000000000 0 1", 0),
            ("path_filestat_set_times 3 1 'l' 5000000000 0 1", 44),
            ("path_filestat_set_times 3 0 'l' 0 0 3", 28),
        ],
    )
    .await;
}
