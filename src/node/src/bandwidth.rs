//! `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`: how fast a pod may talk to others.

use coracle_api::quantity::Quantity;
use coracle_network::Bandwidth;
use k8s_openapi::api::core::v1::Pod;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// What Kubernetes takes for a reasonable number of bits per second.
const SMALLEST: i64 = 1_000;
const LARGEST: i64 = 1_000_000_000_000_000;

/// What the pod's annotations say, or what is wrong with them.
pub(crate) fn of(pod: &Pod) -> Result<Bandwidth, String> {
    let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let read = |name: &str| annotation(name).map(bits).transpose();
    let both = || Ok(Bandwidth { ingress: read(INGRESS)?, egress: read(EGRESS)? });
    both().map_err(|why: String| format!("reading pod bandwidth annotations: {why}"))
}

fn bits(text: &str) -> Result<u64, String> {
    let bits = Quantity::parse(text).map_err(|error| error.to_string())?.value();
    if bits < SMALLEST {
        return Err("resource is unreasonably small (< 1kbit)".to_owned());
    }
    if bits > LARGEST {
        return Err("resource is unreasonably large (> 1Pbit)".to_owned());
    }
    Ok(bits.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[track_caller]
    fn check(ingress: &str, expected: Result<u64, &str>) {
        let mut pod = Pod::default();
        pod.metadata.annotations = Some(BTreeMap::from([(INGRESS.to_owned(), ingress.to_owned())]));
        let expected = match expected {
            Ok(bits) => Ok(Bandwidth { ingress: Some(bits), egress: None }),
            Err(why) => Err(format!("reading pod bandwidth annotations: {why}")),
        };
        assert_eq!(of(&pod), expected, "{ingress}");
    }

    #[test]
    fn bandwidths() {
        check("1k", Ok(1_000));
        check("10M", Ok(10_000_000));
        check("1Mi", Ok(1 << 20));
        check("1P", Ok(1_000_000_000_000_000));
        check("999", Err("resource is unreasonably small (< 1kbit)"));
        check("-1M", Err("resource is unreasonably small (< 1kbit)"));
        check("2P", Err("resource is unreasonably large (> 1Pbit)"));
        let why = Quantity::parse("fast").expect_err("no quantity").to_string();
        check("fast", Err(&why));
        assert_eq!(of(&Pod::default()), Ok(Bandwidth::default()));
    }
}
