//! Requests of guests, to others in the virtual network.

use super::handlers::both;
use super::*;
use crate::HttpConfig;

#[tokio::test]
async fn guests_ask_through_their_pods_network() {
    for served in both(HttpConfig::default()).await {
        let other = served.bench.pod();
        let program =
            served.bench.runtime.prepare("example:routes", &example("routes"), "test").await.unwrap();
        let spec = ContainerSpec { network: other.clone(), ..served.bench.spec(&Arc::default()) };
        let answerer = served.bench.runtime.serve(program, spec, HttpConfig::default()).unwrap();
        let there = format!("http://{}:8080", other.ip());
        let check = async |url: &str, status: u16, expected: &str| {
            let (found, text) = served.get(&format!("/fetch?url={url}")).await;
            assert_eq!((found.as_u16(), text.as_str()), (status, expected), "{url}");
        };
        check(&format!("{there}/"), 200, "hello\n").await;
        check(&format!("{there}/count"), 200, "1\n").await;
        check(&format!("{there}/status?code=302"), 302, "as you wish\n").await;
        // Every instance used the same connection.
        assert_eq!(answerer.usage().connections, 1);
        assert_eq!(answerer.usage().http.unwrap().requests, 3);
        // It is gone when nobody has used it for a while.
        let gone = async {
            while answerer.usage().connections > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the connection is closed");

        check("http://localhost:8080/", 200, "hello\n").await;
        check("http://localhost:81/", 502, "ErrorCode::ConnectionRefused\n").await;
        check(&format!("http://{}:81/", other.ip()), 502, "ErrorCode::ConnectionRefused\n").await;
        check("http://169.254.169.254/", 502, "ErrorCode::DestinationIpProhibited\n").await;
        check("https://169.254.169.254/", 502, "ErrorCode::DestinationIpProhibited\n").await;
        let nobody = "ErrorCode::DnsError(DnsErrorPayload { rcode: Some(\"NXDOMAIN\"), info-code: None })\n";
        check("http://nobody/", 502, nobody).await;
        // It answers, but it does not speak TLS.
        check(&format!("https://{}:8080/", other.ip()), 502, "ErrorCode::TlsProtocolError\n").await;
        let slow = format!("{there}/wait?ms=600000&first-ms=20");
        check(&slow, 502, "ErrorCode::ConnectionReadTimeout\n").await;
        check(&format!("{there}/trap"), 500, "the handler failed\n").await;
        answerer.kill();
        assert_eq!(ended(&answerer).await, Exit::Killed);
        check(&format!("{there}/"), 502, "ErrorCode::ConnectionRefused\n").await;
    }
}
