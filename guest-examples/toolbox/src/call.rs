//! What a command gets: arguments, streams, environment, a folder to stand in.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env,
    fmt::Display,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::platform;

/// One run of a command.
pub struct Call<'a> {
    /// The command's name and its arguments.
    pub args: &'a [String],
    pub stdin: In,
    pub out: Out,
    pub err: Out,
    pub env: &'a mut Env,
}

/// How a command ended: its exit code, or a failure to report (code 1, unless it says another).
pub type Outcome = Result<u8, Failure>;

/// Why a command failed, in words that follow its name and a colon.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into() }
    }

    /// A failure about something that has a name.
    pub fn about(subject: impl Display, error: &io::Error) -> Failure {
        Failure::new(format!("{subject}: {}", reason(error)))
    }

    pub fn usage(text: &str) -> Failure {
        Failure { code: 2, message: format!("usage: {text}") }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(reason(&error))
    }
}

/// The words that the commands of other systems use.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "No such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "Permission denied".to_owned(),
        io::ErrorKind::AlreadyExists => "File exists".to_owned(),
        io::ErrorKind::IsADirectory => "Is a directory".to_owned(),
        io::ErrorKind::NotADirectory => "Not a directory".to_owned(),
        io::ErrorKind::DirectoryNotEmpty => "Directory not empty".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "Read-only file system".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "No space left on device".to_owned(),
        io::ErrorKind::ConnectionRefused => "Connection refused".to_owned(),
        _ => error.to_string(),
    }
}

impl Call<'_> {
    /// The arguments after the name.
    pub fn operands(&self) -> &[String] {
        self.args.get(1..).unwrap_or_default()
    }

    /// Where a path of the command line leads from the folder we stand in.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.env.cwd.join(path)
    }

    /// Reports a failure that does not end the command.
    pub fn complain(&mut self, failure: &Failure) {
        let name = self.args.first().map_or("toolbox", String::as_str);
        self.out.flush_now().ok();
        writeln!(self.err, "{name}: {}", failure.message).ok();
    }
}

/// Environment and working folder.
#[derive(Clone)]
pub struct Env {
    pub vars: BTreeMap<String, String>,
    pub cwd: PathBuf,
    /// How many commands run each other to get here.
    pub depth: usize,
}

impl Env {
    pub fn of_process() -> Env {
        let vars: BTreeMap<String, String> = env::vars_os()
            .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
            .collect();
        Env { cwd: platform::initial_cwd().unwrap_or_else(|| PathBuf::from("/")), vars, depth: 0 }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }
}

/// A stream that is read; clones share it.
#[derive(Clone)]
pub struct In {
    from: Rc<RefCell<dyn BufRead>>,
    /// This is the standard input of the module itself.
    pub is_own: bool,
}

impl In {
    pub fn stdin() -> In {
        In { from: Rc::new(RefCell::new(BufReader::new(io::stdin()))), is_own: true }
    }

    pub fn new(from: impl BufRead + 'static) -> In {
        In { from: Rc::new(RefCell::new(from)), is_own: false }
    }

    /// Reads up to and with the next line end; 0 is the end of the stream.
    pub fn read_line(&self, line: &mut Vec<u8>) -> io::Result<usize> {
        self.from.borrow_mut().read_until(b'\n', line)
    }
}

impl Read for In {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.from.borrow_mut().read(buffer)
    }
}

/// A stream that is written; clones share it.
#[derive(Clone)]
pub struct Out(Rc<RefCell<dyn Write>>);

impl Out {
    pub fn stdout() -> Out {
        Out::new(BufWriter::with_capacity(32 * 1024, io::stdout()))
    }

    pub fn stderr() -> Out {
        Out::new(io::stderr())
    }

    pub fn new(to: impl Write + 'static) -> Out {
        Out(Rc::new(RefCell::new(to)))
    }

    pub fn shared(to: Rc<RefCell<dyn Write>>) -> Out {
        Out(to)
    }

    pub fn flush_now(&self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_now()
    }
}
