//! An asynchronous program: tokio's multi-threaded runtime with sockets, timers, blocking tasks, a signal and a child.
#![deny(unsafe_code)]

use dune_programs::Checks;
use std::io;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time;

/// Clients that talk to the server at the same time.
const CLIENTS: u8 = 16;
/// Messages of each.
const MESSAGES: usize = 10;
/// Bytes of a message.
const MESSAGE: usize = 4096;
/// Nothing here takes that long, however slow the machine.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .expect("threads start");
    runtime.block_on(async {
        match time::timeout(LIMIT, run()).await {
            Ok(Ok(checks)) => checks.status(),
            Ok(Err(error)) => {
                println!("{error}\n@fail to the end");
                ExitCode::FAILURE
            }
            Err(_) => {
                println!("not done within {} s\n@fail to the end", LIMIT.as_secs());
                ExitCode::FAILURE
            }
        }
    })
}

async fn run() -> io::Result<Checks> {
    let mut checks = Checks::default();
    checks.equal("bytes echoed over TCP", echo().await?, usize::from(CLIENTS) * MESSAGES * MESSAGE);

    let start = Instant::now();
    time::sleep(Duration::from_millis(50)).await;
    checks.equal("a timer is not early", start.elapsed() >= Duration::from_millis(50), true);

    let blocking: Vec<_> =
        (0..20_u64).map(|number| tokio::task::spawn_blocking(move || (0..=number).sum::<u64>())).collect();
    let mut sum = 0;
    for task in blocking {
        sum += task.await?;
    }
    checks.equal("twenty blocking tasks", sum, 1_330);

    let (sender, mut receiver) = mpsc::channel(8);
    for sent in 0..10_u32 {
        let sender = sender.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                sender.send(sent).await.expect("the receiver is there");
                tokio::task::yield_now().await;
            }
        });
    }
    drop(sender);
    let mut received = 0;
    while let Some(number) = receiver.recv().await {
        received += number;
    }
    checks.equal("a thousand messages of ten tasks", received, 4_500);

    let mut signals = signal(SignalKind::user_defined1())?;
    let own_id = std::process::id().to_string();
    let kill = Command::new("kill").args(["-USR1", &own_id]).status().await?;
    checks.equal("kill succeeds", kill.success(), true);
    checks.equal("its signal arrives", signals.recv().await, Some(()));

    let mut child =
        Command::new("tr").args(["a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    input.write_all(b"to a child and back").await?;
    drop(input);
    let output = child.wait_with_output().await?;
    checks.equal("a child's output", String::from_utf8_lossy(&output.stdout).as_ref(), "TO A CHILD AND BACK");
    Ok(checks)
}

/// Sends messages to a server of ours and reads them back; gives the bytes that came back right.
async fn echo() -> io::Result<usize> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                let mut right = 0;
                for _ in 0..MESSAGES {
                    stream.write_all(&[client; MESSAGE]).await?;
                    let mut back = [0; MESSAGE];
                    stream.read_exact(&mut back).await?;
                    right += back.iter().filter(|&&byte| byte == client).count();
                }
                Ok::<_, io::Error>(right)
            })
        })
        .collect();
    let mut right = 0;
    for client in clients {
        right += client.await??;
    }
    Ok(right)
}

/// Sends back what comes until the client has gone.
async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; MESSAGE];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}
