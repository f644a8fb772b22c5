//! Sidecar that keeps writing pages into a shared volume.
//!
//! Shows two modules on one `emptyDir`: this one writes, the web server beside it reads. Every page is
//! written under another name and renamed over the old one, so that a reader never sees half of it.
//! `CONTENT_DIR` is the folder (default `/content`), `CONTENT_PERIOD_MS` the time between two editions.

use std::{env, fs, io, path::Path, thread, time::Duration};

fn main() -> io::Result<()> {
    let dir = env::var("CONTENT_DIR").unwrap_or_else(|_| "/content".to_owned());
    let period = env::var("CONTENT_PERIOD_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(1000);
    let pod = env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    let dir = Path::new(&dir);
    println!("writing into {}", dir.display());
    for edition in 1u64.. {
        publish(dir, "edition.txt", &format!("{edition}\n"))?;
        publish(dir, "index.html", &page(&pod, edition))?;
        if edition.is_power_of_two() {
            println!("edition {edition}");
        }
        thread::sleep(Duration::from_millis(period));
    }
    Ok(())
}

/// Replaces a file whole: readers see the old or the new one.
fn publish(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, dir.join(name))
}

fn page(pod: &str, edition: u64) -> String {
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<title>Coracle: {pod}</title>
<style>
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; font: 17px/1.5 system-ui, sans-serif;
         background: linear-gradient(#dff1f7, #8fc3d8 60%, #3d7d9c); color: #12303d }}
  main {{ background: #fffd; border-radius: 14px; padding: 2rem 2.6rem; box-shadow: 0 10px 40px #12303d44; max-width: 34rem }}
  h1 {{ margin: 0 0 .6rem; font-size: 1.5rem }}
  code {{ background: #e6f2f7; padding: .1em .4em; border-radius: 5px }}
  .edition {{ font-size: 2.6rem; font-variant-numeric: tabular-nums }}
</style>
</head>
<body><main>
<h1>Served by pod <code>{pod}</code></h1>
<p class="edition">edition {edition}</p>
<p>The module <code>content</code> wrote this page into a volume; its neighbour <code>web</code> served it from there.
Reload: another pod of the service answers, and the edition has grown.</p>
</main></body>
</html>
"#
    )
}
