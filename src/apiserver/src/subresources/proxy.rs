//! `…/proxy`: HTTP to a pod, to a ready endpoint of a service, or to the kubelet API of a node.
//!
//! Names may carry a scheme and a port: `[scheme:]name[:port]`; by `https` any certificate will do. What follows
//! `/proxy` in the path, the query, the body and the method are passed on as they are.
//!
//! An endpoint that is no pod is not gone to, as in Kubernetes: the proxy is no way to what its caller may not reach.

use std::net::IpAddr;

use axum::{body::Body, response::Response};
use coracle_api::{Subresource, status::Status};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use super::escape;
use crate::{
    connect::{self, Forward},
    core::random,
    dispatch::Asked,
    object,
    pipeline::Call,
    request_info::split_proxy,
    verbs,
};

/// The port of a pod that says nothing of ports: that of the scheme.
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// Any method.
pub(crate) async fn any(asked: Asked, body: Body) -> Result<Response, Status> {
    debug_assert!(asked.call.kind().subresources.contains(&Subresource::Proxy), "the route says so");
    verbs::read_barrier(&asked.call, &asked.parameters).await?;
    let path = asked.uri.path();
    let (prefix, tail) = split_proxy(path).unwrap_or((path, ""));
    let place = match &*asked.call.kind().kind {
        "Pod" => pod(&asked.call)?,
        "Service" => service(&asked.call)?,
        _ => node(&asked.call)?,
    };
    let reads = asked.method == Method::GET || asked.method == Method::HEAD;
    if tail.is_empty() && reads && !connect::wants_upgrade(&asked.headers) {
        return Ok(to_root(path, asked.uri.query()));
    }
    let core = asked.call.core.clone();
    let Some(kubelet) = core.nodes.get(&place.node) else {
        let why = format!("error trying to reach service: no connection to node {:?}", place.node);
        return Err(Status::service_unavailable(why));
    };
    let prefix = prefix.to_owned();
    let query = asked.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let tail = if tail.is_empty() { "/" } else { tail };
    let target = format!("{}{tail}{query}", place.path);
    let mut headers = asked.headers;
    forwarded(&mut headers, path);
    let Asked { method, upgrade, share, .. } = asked;
    let forward = Forward { method, path: target, headers, body, upgrade, share };
    let mut response = connect::forward(&core, kubelet, forward).await?;
    rewrite_location(response.headers_mut(), &prefix, &place.path);
    Ok(response)
}

/// Where a request goes: a node, and what comes before the path there.
struct Place {
    node: String,
    path: String,
}

/// Takes `[scheme:]name[:port]` apart.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = name.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some((scheme, name, port))
}

/// How a node is told that TLS is to be spoken.
fn secure(scheme: &str) -> &'static str {
    if scheme == "https" { "https:" } else { "" }
}

fn pod(call: &Call) -> Result<Place, Status> {
    let Some((scheme, name, port)) = split(&call.name) else {
        return Err(Status::bad_request(format!("invalid pod request {:?}", call.name)));
    };
    let pod = get(call, name)?;
    let port = match port {
        "" => first_port(&pod).unwrap_or(if scheme == "https" { HTTPS } else { HTTP }),
        text => match text.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(Status::bad_request(format!("invalid port {text:?}"))),
        },
    };
    place_of_pod(&pod, scheme, port).ok_or_else(|| Status::bad_request("address not allowed"))
}

fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array)?;
    let port =
        containers.iter().find_map(|container| object::integer(container, "/ports/0/containerPort"))?;
    u16::try_from(port).ok()
}

/// `None` if the pod has no address yet, or none of its own.
fn place_of_pod(pod: &Value, scheme: &str, port: u16) -> Option<Place> {
    let node = object::text(pod, "/spec/nodeName");
    let ip: IpAddr = object::text(pod, "/status/podIP").parse().ok()?;
    if node.is_empty() || !is_allowed(ip) {
        return None;
    }
    let (namespace, name) = (escape(object::namespace(pod)), escape(object::name(pod)));
    let path = format!("/podProxy/{namespace}/{name}/{}{port}", secure(scheme));
    Some(Place { node: node.to_owned(), path })
}

/// Kubernetes' rule: never what is the proxying machine's own.
fn is_allowed(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

fn service(call: &Call) -> Result<Place, Status> {
    let Some((scheme, name, port)) = split(&call.name) else {
        return Err(Status::bad_request(format!("invalid service request {:?}", call.name)));
    };
    let service = get(call, name)?;
    let mut port_name = port;
    if let Ok(number) = port.parse::<i64>() {
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        let mut found = ports.filter(|port| object::integer(port, "/port") == Some(number));
        port_name = match found.next() {
            Some(port) => object::text(port, "/name"),
            None => {
                let why = format!("no service port {number} found for service {name:?}");
                return Err(Status::service_unavailable(why));
            }
        };
    }
    let none =
        |name: &str| Status::service_unavailable(format!("no endpoints available for service {name:?}"));
    let endpoints = stored(call, "endpoints", name).ok_or_else(|| none(name))?;
    let places = places_of(call, &endpoints, scheme, port_name);
    let count = places.len();
    if count == 0 {
        return Err(none(if port.is_empty() { name } else { &call.name }));
    }
    let pick = usize::try_from(random() % count as u64).unwrap_or(0);
    places.into_iter().nth(pick).ok_or_else(|| none(name))
}

/// Where the ready pods behind a named port are.
fn places_of(call: &Call, endpoints: &Value, scheme: &str, port_name: &str) -> Vec<Place> {
    let array =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut places = Vec::new();
    for subset in array(endpoints, "subsets") {
        let ports = array(&subset, "ports");
        let Some(port) = ports.iter().find(|port| object::text(port, "/name") == port_name) else { continue };
        let Some(port) = object::integer(port, "/port").and_then(|port| u16::try_from(port).ok()) else {
            continue;
        };
        for address in array(&subset, "addresses") {
            places.extend(pod_at(call, &address).and_then(|pod| place_of_pod(&pod, scheme, port)));
        }
    }
    places
}

/// The pod of the call's namespace that has an endpoint's address, as the endpoint itself says.
fn pod_at(call: &Call, address: &Value) -> Option<Value> {
    let (ip, name) = (object::text(address, "/ip"), object::text(address, "/targetRef/name"));
    if name.is_empty() || object::text(address, "/targetRef/namespace") != call.namespace {
        return None;
    }
    let pod = stored(call, "pods", name)?;
    let mut ips = pod.pointer("/status/podIPs").and_then(Value::as_array)?.iter();
    ips.any(|known| object::text(known, "/ip") == ip).then_some(pod)
}

fn node(call: &Call) -> Result<Place, Status> {
    let Some((_, name, _)) = split(&call.name) else {
        return Err(Status::bad_request(format!("invalid node request {:?}", call.name)));
    };
    get(call, name)?;
    Ok(Place { node: name.to_owned(), path: String::new() })
}

/// The object of the call's kind that has this name.
fn get(call: &Call, name: &str) -> Result<Value, Status> {
    let mut call = call.clone();
    call.name = name.to_owned();
    Ok(call.object(&*call.entry()?))
}

/// An object of a core kind in the call's namespace.
fn stored(call: &Call, plural: &str, name: &str) -> Option<Value> {
    let resource = call.catalogue.find("", "v1", plural)?;
    let entry = call.core.store.get(&resource.key(&call.namespace, name))?;
    Some(object::parse_stored(entry.value()))
}

/// What tells the far end under which address it was reached, as Kubernetes' proxy does.
fn forwarded(headers: &mut HeaderMap, path: &str) {
    let host = headers.get(header::HOST).cloned();
    if let Ok(path) = HeaderValue::from_str(path) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), path);
    }
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static("https"));
}

/// Relative links of a page only work below its folder, so the proxy itself is one.
fn to_root(path: &str, query: Option<&str>) -> Response {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{path}/{query}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A redirect to another path of the same host stays behind the proxy.
fn rewrite_location(headers: &mut HeaderMap, prefix: &str, place: &str) {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let Some(location) = location.filter(|to| to.starts_with('/') && !to.starts_with("//")) else { return };
    let location = location.strip_prefix(place).unwrap_or(location);
    if let Ok(location) = HeaderValue::from_str(&format!("{prefix}{location}")) {
        headers.insert(header::LOCATION, location);
    }
}
