//! A program of WASI 0.3: its `run` is asynchronous, and what flows (stdout, files, connections) are streams of
//! the component model.
//!
//! ```text
//!   say TEXT...          prints
//!   exit CODE
//!   write PATH TEXT      makes a file of it
//!   append PATH TEXT
//!   read PATH            prints the file
//!   list PATH            prints the names in a folder
//!   fetch PORT TEXT      sends a line to 127.0.0.1, and prints what comes back until the end
//!   serve PORT COUNT     answers so many connections with what they send; until it is told to end if COUNT is 0
//!   datagram PORT TEXT   sends a datagram to 127.0.0.1, and prints the answer
//!   datagrams PORT COUNT answers so many datagrams with what they bring
//!   rules                prints what the rules of UDP answer
//!   resolve NAME         prints its addresses
//!   sleep MILLISECONDS
//! ```

mod files;
mod network;

use wasip3::{cli, clocks::monotonic_clock};

wasip3::cli::command::export!(Program);

struct Program;

/// What went wrong, for people.
type Failure = String;

impl wasip3::exports::cli::run::Guest for Program {
    async fn run() -> Result<(), ()> {
        let args = cli::environment::get_arguments();
        let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
        match run(&words).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                print(format!("preview3: {failure}\n").into_bytes()).await;
                Err(())
            }
        }
    }
}

async fn run(words: &[&str]) -> Result<(), Failure> {
    match words {
        ["say", words @ ..] => {
            print(format!("{}\n", words.join(" ")).into_bytes()).await;
            Ok(())
        }
        ["exit", code] => {
            cli::exit::exit_with_code(number(code)?);
            Ok(())
        }
        ["write", path, text] => files::write(path, text, false).await,
        ["append", path, text] => files::write(path, text, true).await,
        ["read", path] => {
            print(files::read(path).await?).await;
            Ok(())
        }
        ["list", path] => {
            let names = files::list(path).await?;
            print(names.into_iter().map(|name| name + "\n").collect::<String>().into_bytes()).await;
            Ok(())
        }
        ["fetch", port, text] => {
            let answer = network::fetch(number(port)?, format!("{text}\n").into_bytes()).await?;
            print(answer).await;
            Ok(())
        }
        ["serve", port, count] => network::serve(number(port)?, number(count)?).await,
        ["datagram", port, text] => {
            let answer = network::datagram(number(port)?, text.as_bytes().to_vec()).await?;
            print(answer).await;
            Ok(())
        }
        ["datagrams", port, count] => network::datagrams(number(port)?, number(count)?).await,
        ["rules"] => {
            print((network::rules().await?.join("\n") + "\n").into_bytes()).await;
            Ok(())
        }
        ["resolve", name] => {
            let addresses = wasip3::sockets::ip_name_lookup::resolve_addresses((*name).to_owned()).await;
            print(format!("{:?}\n", addresses.map_err(failed)?).into_bytes()).await;
            Ok(())
        }
        ["sleep", milliseconds] => {
            let milliseconds: u64 = number(milliseconds)?;
            monotonic_clock::wait_for(milliseconds * 1_000_000).await;
            Ok(())
        }
        _ => Err(format!("unknown command {words:?}")),
    }
}

/// Prints, and waits until it is taken.
async fn print(bytes: Vec<u8>) {
    let (mut writer, reader) = wasip3::wit_stream::new();
    let taken = cli::stdout::write_via_stream(reader);
    writer.write_all(bytes).await;
    drop(writer);
    // Nobody is left to be told that nobody reads.
    let _ = taken.await;
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| format!("{text:?} is not a number that fits"))
}

fn failed(error: impl std::fmt::Debug) -> Failure {
    format!("{error:?}")
}
