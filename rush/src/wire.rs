//! One kept-alive HTTP/1.1 connection that opens itself again.
//!
//! Low-level on purpose: the generator shares the machine with the system it measures, so a request costs one
//! write, one read and no pool look-up.

use crate::target::Target;
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, HOST},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{fmt, io, time::Duration};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

/// Why a request got no answer.
#[derive(Debug)]
pub enum Trouble {
    /// No connection could be opened.
    Connect(io::Error),
    /// The connection broke after the request may have been sent.
    Broken(hyper::Error),
    /// No whole answer in time.
    Timeout,
}

impl Trouble {
    /// A short name to count by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "cannot connect",
            Self::Broken(_) => "connection broke",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(e) => write!(f, "{}: {e}", self.name()),
            Self::Broken(e) => write!(f, "{}: {e}", self.name()),
            Self::Timeout => f.write_str(self.name()),
        }
    }
}

impl std::error::Error for Trouble {}

/// A connection to one server, one request at a time.
pub struct Connection {
    target: Target,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // A request given up must not go on holding its socket.
        self.driver.abort();
    }
}

impl Connection {
    /// Connects on first use.
    pub fn new(target: Target) -> Self {
        Self { target, open: None }
    }

    /// Connects now, so that the first request need not.
    pub async fn open(&mut self) -> Result<(), Trouble> {
        self.open = Some(connect(&self.target).await?);
        Ok(())
    }

    /// Reads `uri`, as whoever `authorization` speaks for.
    pub async fn get(
        &mut self,
        uri: Uri,
        authorization: Option<&HeaderValue>,
        limit: Duration,
    ) -> Result<Response<Bytes>, Trouble> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, self.target.host.clone());
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        self.exchange(request, limit).await
    }

    /// Sends `request` and reads its whole answer within `limit`.
    pub async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Bytes>, Trouble> {
        let result = timeout(limit, self.attempt(request)).await.unwrap_or(Err(Trouble::Timeout));
        if result.is_err() {
            self.open = None;
        }
        result
    }

    async fn attempt(&mut self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Trouble> {
        loop {
            let kept = match self.open.take() {
                Some(mut open) => open.sender.ready().await.is_ok().then_some(open),
                None => None,
            };
            let fresh = kept.is_none();
            let open = match kept {
                Some(open) => open,
                None => {
                    let mut open = connect(&self.target).await?;
                    open.sender.ready().await.map_err(Trouble::Broken)?;
                    open
                }
            };
            let open = self.open.insert(open);
            match open.sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await.map_err(Trouble::Broken)?.to_bytes();
                    return Ok(Response::from_parts(head, body));
                }
                Err(mut error) => match error.take_message() {
                    // The server closed the idle connection and nothing was sent: no try of the buyer's.
                    Some(unsent) if !fresh => {
                        self.open = None;
                        request = unsent;
                    }
                    _ => return Err(Trouble::Broken(error.into_error())),
                },
            }
        }
    }
}

async fn connect(target: &Target) -> Result<Open, Trouble> {
    let stream = TcpStream::connect(target.address).await.map_err(Trouble::Connect)?;
    stream.set_nodelay(true).map_err(Trouble::Connect)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Trouble::Broken)?;
    let driver = tokio::spawn(async move {
        // Its error reaches the request it belongs to.
        let _ = connection.await;
    });
    Ok(Open { sender, driver })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const SOON: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);

    /// What a server does with each connection in turn: how many requests it answers, and whether it then reads one
    /// more before it closes; `None` keeps it open and silent.
    async fn server(connections: Vec<(usize, Option<bool>)>) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            for (answers, then) in connections {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                for _ in 0..answers {
                    assert!(stream.read(&mut buffer).await.unwrap() > 0);
                    stream.write_all(ANSWER).await.unwrap();
                }
                match then {
                    Some(true) => assert!(stream.read(&mut buffer).await.unwrap() > 0),
                    Some(false) => {}
                    None => silent.push(stream),
                }
            }
        });
        Connection::new(target)
    }

    async fn get(connection: &mut Connection, limit: Duration) -> Result<Bytes, Trouble> {
        connection.get(Uri::from_static("/"), None, limit).await.map(Response::into_body)
    }

    #[tokio::test]
    async fn one_connection_serves_many_requests() {
        let mut connection = server(vec![(3, None)]).await;
        for _ in 0..3 {
            assert_eq!(get(&mut connection, LONG).await.unwrap(), "ok");
        }
    }

    #[tokio::test]
    async fn no_answer_is_a_timeout_and_the_next_request_gets_a_new_connection() {
        let mut connection = server(vec![(0, None), (1, None)]).await;
        assert!(matches!(get(&mut connection, SOON).await, Err(Trouble::Timeout)));
        assert_eq!(get(&mut connection, LONG).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn a_request_cut_off_is_the_buyers_to_repeat() {
        let mut connection = server(vec![(1, Some(true)), (1, None)]).await;
        assert_eq!(get(&mut connection, LONG).await.unwrap(), "ok");
        assert!(matches!(get(&mut connection, LONG).await, Err(Trouble::Broken(_))));
        assert_eq!(get(&mut connection, LONG).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn an_idle_connection_that_was_closed_costs_no_try() {
        let mut connection = server(vec![(1, Some(false)), (1, None)]).await;
        assert_eq!(get(&mut connection, LONG).await.unwrap(), "ok");
        tokio::time::sleep(SOON).await;
        assert_eq!(get(&mut connection, LONG).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn nobody_there_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        drop(listener);
        let trouble = get(&mut Connection::new(target), LONG).await.unwrap_err();
        assert!(matches!(trouble, Trouble::Connect(_)), "{trouble}");
    }
}
