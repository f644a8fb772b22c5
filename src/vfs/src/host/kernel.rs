//! File systems that hold no files: by them the kernel shows itself, its processes (this one with all it has in
//! memory, for reading and for writing) and its settings. No guest gets at any of them.

use std::fs::File;

use super::errno::from_errno;
use crate::error::VfsError;

/// By the numbers of `statfs(2)`.
const KERNEL: [u32; 30] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0x4249_4e4d, // binfmt_misc
    0x6573_5543, // fusectl
    0x0000_1cd1, // devpts
    0x1980_0202, // mqueue
    0x6e73_6673, // nsfs
    0x0765_5821, // resctrl
    0x6c6f_6f70, // binderfs
    0x6264_6576, // bdev
    0x0bad_1dea, // futexfs
    0x5049_5045, // pipefs
    0x534f_434b, // sockfs
    0x0904_1934, // anonymous inodes
    0x6759_6969, // rpc_pipefs
    0x6e66_7364, // nfsd
    0xabba_1974, // xenfs
    0x0000_9fa1, // openprom
];

/// # Errors
/// [`VfsError::NotPermitted`] if what was opened is on one of them.
pub(super) fn check(opened: &File) -> Result<(), VfsError> {
    let stat = rustix::fs::fstatfs(opened).map_err(from_errno)?;
    // Only the low half says something; some machines extend it with its sign.
    let kind = stat.f_type as u32;
    if KERNEL.contains(&kind) { Err(VfsError::NotPermitted) } else { Ok(()) }
}
