//! A queue of tasks, and workers that take them.
//!
//! `worker-queue queue` serves on `PORT` (default 8080): `POST /tasks?count=N` adds tasks, `POST /take?worker=W` hands one
//! out, `POST /done?task=T&worker=W` takes it back, `GET /` tells how it stands. A task whose worker is silent for `LEASE_MS` is
//! handed out again: workers may come and go at any moment.
//!
//! `worker-queue worker` asks `QUEUE` (default `queue`) for tasks; each takes it `TASK_MS` (default 300).

mod queue;

use std::{
    env, io,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use kit::{Answer, Request};
use queue::Queue;

/// How long a worker without a task rests.
const REST: Duration = Duration::from_millis(100);

fn main() -> io::Result<ExitCode> {
    match env::args().nth(1).as_deref() {
        Some("queue") => serve()?,
        Some("worker") => work(),
        _ => {
            eprintln!("usage: worker-queue queue|worker");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn serve() -> io::Result<()> {
    let mut queue = Queue::new(Duration::from_millis(kit::number("LEASE_MS", 5000)));
    kit::serve(kit::number("PORT", 8080) as u16, move |request: &Request| {
        let now = Instant::now();
        let field = |name| kit::field(&request.query, name);
        let number = |name| field(name).and_then(|n| n.parse().ok());
        match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/") => Answer::json(queue.report(now)),
            ("GET" | "HEAD", "/healthz") => Answer::text("ok\n"),
            ("POST", "/tasks") => match queue.add(number("count").unwrap_or(1)) {
                Some(waiting) => Answer::text(format!("{waiting} tasks wait\n")),
                None => Answer::error(503, "the queue is full"),
            },
            ("POST", "/take") => match queue.take(&field("worker").unwrap_or_default(), now) {
                Some(task) => Answer::text(task.to_string()),
                None => Answer { code: 204, ..Answer::text("") },
            },
            ("POST", "/done") => {
                match number("task")
                    .is_some_and(|task| queue.done(task, &field("worker").unwrap_or_default()))
                {
                    true => Answer::text("thanks\n"),
                    false => Answer::error(404, "not your task (any more)"),
                }
            }
            _ => Answer::not_found(),
        }
    })
}

/// Works for ever: without a listener there is nothing that could ask it to end, and nothing that is lost.
fn work() {
    let (queue, worker) = (kit::var("QUEUE", "queue"), kit::pod());
    let effort = Duration::from_millis(kit::number("TASK_MS", 300));
    println!("{worker} works for {queue}");
    loop {
        match kit::post(&queue, &format!("/take?worker={worker}"), "") {
            Ok(task) if !task.is_empty() => {
                thread::sleep(effort);
                match kit::post(&queue, &format!("/done?task={task}&worker={worker}"), "") {
                    Ok(_) => println!("task {task} is done"),
                    Err(error) => eprintln!("task {task}: {error}"),
                }
            }
            Ok(_) => thread::sleep(REST),
            Err(error) => {
                eprintln!("{queue}: {error}");
                thread::sleep(effort.max(REST));
            }
        }
    }
}
