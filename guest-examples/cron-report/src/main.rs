//! Prints a report about what lies in a volume, and ends.
//!
//! Shows a module of a `CronJob`: it reads every `*.csv` of `SALES_DIR` (default `/sales`; lines `what,amount`), adds up and
//! prints. A line that is none makes it fail, and the job shows that.

use std::{collections::BTreeMap, env, fs, io, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let dir = env::var("SALES_DIR").unwrap_or_else(|_| "/sales".to_owned());
    let report =
        read(Path::new(&dir)).map_err(|error| format!("{dir}: {error}")).and_then(|files| report(&files));
    match report {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// The names and texts of the files, in order.
fn read(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".csv") {
            files.insert(name.clone(), fs::read_to_string(dir.join(name))?);
        }
    }
    Ok(files)
}

fn report(files: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut sums, mut total) = (BTreeMap::<&str, u64>::new(), 0u64);
    for (name, text) in files {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let sold =
                line.split_once(',').and_then(|(what, n)| Some((what.trim(), n.trim().parse::<u64>().ok()?)));
            let (what, amount) = sold.ok_or_else(|| format!("{name}:{}: not `what,amount`", number + 1))?;
            let sum = sums.entry(what).or_default();
            *sum = sum.saturating_add(amount);
            total = total.saturating_add(amount);
        }
    }
    let mut report = format!("sales of {} files\n", files.len());
    for (what, sum) in &sums {
        report.push_str(&format!("{what:<12}{sum:>8}\n"));
    }
    report.push_str(&format!("{:<12}{total:>8}\n", "total"));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_all_files() {
        let files =
            |texts: &[(&str, &str)]| texts.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
        let good = report(&files(&[("a.csv", "tea,3\ncoffee, 4\n"), ("b.csv", "\ntea,5\n")])).unwrap();
        assert_eq!(
            good,
            "sales of 2 files\ncoffee             4\ntea                8\ntotal             12\n"
        );
        let bad = report(&files(&[("a.csv", "tea,3\ncoffee\n")])).unwrap_err();
        assert_eq!(bad, "a.csv:2: not `what,amount`");
    }
}
