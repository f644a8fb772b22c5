//! The guest's own streams, for those who open them by their names in `/dev`.

use std::sync::Arc;

use coracle_vfs::{Device, File};

use crate::output::Output;
use crate::stdin::{Input, Stdin, WeakInput};

/// A guest's stdin, stdout and stderr.
#[derive(Clone)]
pub(crate) struct Stdio {
    /// The guest ends it by letting go of what it was given at its start.
    stdin: WeakInput,
    stdout: Arc<dyn Output>,
    stderr: Arc<dyn Output>,
    pub(crate) terminal: bool,
}

/// What an open file is, if it is one of the guest's own streams.
pub(crate) enum Own {
    Input(Input),
    Output(Arc<dyn Output>),
}

impl Stdio {
    pub(crate) fn new(
        stdin: &Stdin,
        stdout: &Arc<dyn Output>,
        stderr: &Arc<dyn Output>,
        terminal: bool,
    ) -> Stdio {
        let (stdout, stderr) = (Arc::clone(stdout), Arc::clone(stderr));
        Stdio { stdin: WeakInput::of(stdin), stdout, stderr, terminal }
    }

    /// Of no guest, with what is written going here.
    #[cfg(test)]
    pub(crate) fn to<T: Output + 'static>(output: &Arc<T>) -> Stdio {
        let output: Arc<dyn Output> = output.clone();
        Stdio::new(&Stdin::Closed, &output, &output, false)
    }

    /// Of no guest.
    #[cfg(test)]
    pub(crate) fn none() -> Stdio {
        Stdio::to(&Arc::new(crate::tests::Capture::default()))
    }

    /// The stream that a file stands for.
    pub(crate) fn own(&self, file: &File) -> Option<Own> {
        match file.device()? {
            Device::Null | Device::Zero | Device::Random => None,
            Device::Stdin => Some(Own::Input(self.stdin.input())),
            Device::Stdout => Some(Own::Output(Arc::clone(&self.stdout))),
            Device::Stderr => Some(Own::Output(Arc::clone(&self.stderr))),
        }
    }
}
