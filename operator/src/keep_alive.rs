//! Keep-alives of the connections to heads. The machine of a head may die without a word, and a client that only reads
//! would wait for ever: nothing comes, and nothing is sent that could be refused.
//!
//! HTTP/2 pings notice a head that is gone and one that hangs, also through proxies. TCP keep-alives stand below them: they
//! need no task of this process.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

/// Number of TCP keep-alives without an answer after which the kernel gives a connection up.
const TCP_RETRIES: u32 = 3;

/// Keep-alives of a connection. A peer that is silent counts as gone after `interval` and `timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time without a frame of the peer after which a ping is sent.
    interval: Duration,
    /// Time within which the peer must answer the ping.
    timeout: Duration,
}

impl KeepAlive {
    /// Keep-alives of the operator's connections. A head that does not answer is news for the operator.
    pub const OPERATOR: Self = Self { interval: Duration::from_secs(2), timeout: Duration::from_secs(2) };
    /// Keep-alives of the connections of commands. A busy network between a person and a cluster may lose a ping.
    pub const COMMAND: Self = Self { interval: Duration::from_secs(5), timeout: Duration::from_secs(5) };

    /// Sets the keep-alives of an endpoint: those of HTTP/2 also without a request, and those of TCP if the endpoint
    /// connects by itself.
    #[must_use]
    pub fn on_endpoint(self, endpoint: Endpoint) -> Endpoint {
        endpoint
            .http2_keep_alive_interval(self.interval)
            .keep_alive_timeout(self.timeout)
            .keep_alive_while_idle(true)
            .tcp_keepalive(Some(self.interval))
            .tcp_keepalive_interval(Some(self.interval))
            .tcp_keepalive_retries(Some(TCP_RETRIES))
    }

    /// Sets the TCP keep-alives of a connection that the caller made.
    ///
    /// # Errors
    /// Fails if the system refuses a setting.
    pub fn on_stream(self, stream: &TcpStream) -> io::Result<()> {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, self.interval)?;
        sockopt::set_tcp_keepintvl(stream, self.interval)?;
        Ok(sockopt::set_tcp_keepcnt(stream, TCP_RETRIES)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use lockstep_proto::v1::WatchRequest;
    use lockstep_proto::v1::cluster_client::ClusterClient;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const SHORT: KeepAlive = KeepAlive { interval: Duration::from_secs(1), timeout: Duration::from_secs(1) };
    /// Time after which a test fails whose connection does not end.
    const LONGEST_WAIT: Duration = Duration::from_secs(30);

    /// A head that takes a request and falls silent, as one without power does.
    #[tokio::test]
    async fn a_request_to_a_silent_head_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let head = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An empty frame of settings begins HTTP/2.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            std::future::pending::<()>().await;
        });
        let endpoint = SHORT.on_endpoint(Endpoint::from_shared(format!("http://{address}")).unwrap());
        let channel = endpoint.connect().await.unwrap();
        let began = Instant::now();
        let mut client = ClusterClient::new(channel);
        let watched =
            tokio::time::timeout(LONGEST_WAIT, client.watch(WatchRequest {})).await.expect("the ping has no answer");
        assert!(watched.is_err() && began.elapsed() >= SHORT.interval, "{:?}", began.elapsed());
        head.abort();
    }

    #[tokio::test]
    async fn a_stream_gets_the_keep_alives_of_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        KeepAlive::COMMAND.on_stream(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KeepAlive::COMMAND.interval);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KeepAlive::COMMAND.interval);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), TCP_RETRIES);
    }
}
