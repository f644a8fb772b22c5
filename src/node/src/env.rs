//! A container's environment and argv: literal values, references, `$(VAR)` expansion, service
//! variables. By the kubelet's rules and in its error texts. Pure.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use coracle_api::quantity::Quantity;
use coracle_network::{ClusterNames, HostNames};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};

/// Bytes that a container's environment may have, and its argv: what Linux gives a program for both. References
/// multiply what a spec says (`$(A)$(A)`, one ConfigMap in many `envFrom`), so a pod of a few kilobytes could
/// ask for more than the node has.
const MAX_BYTES: usize = 2 << 20;

/// How long the name of a host may be: what Linux keeps of it. Kubernetes' number.
const HOSTNAME_MAX: usize = 64;

/// Where referenced objects are looked up.
pub(crate) trait Sources {
    /// A ConfigMap, if it exists.
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>>;
    /// A Secret, if it exists.
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>>;
}

/// Why an environment cannot be made yet. The texts are Kubernetes'.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey { namespace: String, name: String, key: String },
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("missing value for {0}")]
    Missing(String),
    #[error("argument list too long")]
    TooLong,
}

/// What a pod's references to itself and its node resolve to.
pub(crate) struct PodFacts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ip: Option<IpAddr>,
    /// Its second address.
    pub(crate) pod_ip6: Option<Ipv6Addr>,
    /// What its programs see as their host's name.
    pub(crate) hostname: String,
    pub(crate) host_ip: IpAddr,
    /// Stands in for limits that a container does not set.
    pub(crate) allocatable: Allocatable,
}

/// What the node has to give.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allocatable {
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
}

/// Variables of one container, in the order they were defined; a later definition replaces an earlier
/// one in place.
#[derive(Debug)]
pub(crate) struct Environment {
    list: Vec<(String, String)>,
    places: HashMap<String, usize>,
    room: Room,
}

/// What is left of [`MAX_BYTES`].
#[derive(Debug)]
struct Room(usize);

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), EnvError> {
        self.0 = self.0.checked_sub(bytes).ok_or(EnvError::TooLong)?;
        Ok(())
    }
}

impl Default for Environment {
    fn default() -> Environment {
        Environment { list: Vec::new(), places: HashMap::new(), room: Room(MAX_BYTES) }
    }
}

impl Environment {
    /// Makes the environment of a container: the image's, then services', then `envFrom`, then `env`.
    pub(crate) fn of(
        facts: &PodFacts<'_>,
        container: &Container,
        image: &[(String, String)],
        services: &BTreeMap<String, String>,
        sources: &dyn Sources,
    ) -> Result<Environment, EnvError> {
        let mut env = Environment::default();
        for (name, value) in image.iter().chain([&("HOSTNAME".to_owned(), facts.hostname.clone())]) {
            env.set(name, value.clone())?;
        }
        for (name, value) in services {
            env.set(name, value.clone())?;
        }
        let mut own = BTreeMap::new();
        add_env_from(&mut own, facts, container, sources)?;
        for (name, value) in &own {
            env.set(name, value.clone())?;
        }
        for var in container.env.as_deref().unwrap_or_default() {
            let value = match (&var.value_from, &var.value) {
                (Some(from), _) => referenced(facts, container, from, sources)?,
                (None, Some(value)) => {
                    let known = |name: &str| own.get(name).or_else(|| services.get(name)).map(String::as_str);
                    Some(expand(value, known)?)
                }
                (None, None) => Some(String::new()),
            };
            if let Some(value) = value {
                own.insert(var.name.clone(), value.clone());
                env.set(&var.name, value)?;
            }
        }
        Ok(env)
    }

    /// The variables.
    pub(crate) fn into_vec(self) -> Vec<(String, String)> {
        self.list
    }

    /// Replaces `$(NAME)` by the variables of this environment.
    pub(crate) fn expand(&self, text: &str) -> Result<String, EnvError> {
        expand(text, |name| self.get(name))
    }

    /// As [`Environment::expand`], but all variables must be there and say something.
    pub(crate) fn expand_all(&self, text: &str) -> Result<String, EnvError> {
        let missing = RefCell::new(BTreeSet::new());
        let expanded = expand(text, |name| {
            let value = self.get(name).filter(|value| !value.is_empty());
            if value.is_none() {
                missing.borrow_mut().insert(name.to_owned());
            }
            value
        })?;
        let missing: Vec<String> = missing.into_inner().into_iter().collect();
        if missing.is_empty() { Ok(expanded) } else { Err(EnvError::Missing(missing.join(", "))) }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.list[*place].1.as_str())
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), EnvError> {
        self.room.take(name.len() + value.len())?;
        match self.places.get(name) {
            Some(place) => self.list[*place].1 = value,
            None => {
                self.places.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
        Ok(())
    }
}

/// The argv of a container. `command` replaces the image's entrypoint and its arguments; `args` replaces
/// the arguments alone. A module without any name is called by its container's.
pub(crate) fn arguments(
    container: &Container,
    entrypoint: &[String],
    cmd: &[String],
    env: &Environment,
) -> Result<Vec<String>, EnvError> {
    let mut room = Room(MAX_BYTES);
    let mut list = |list: &Option<Vec<String>>| -> Result<Vec<String>, EnvError> {
        let expanded = list.iter().flatten().map(|text| {
            let text = env.expand(text)?;
            room.take(text.len())?;
            Ok(text)
        });
        expanded.collect()
    };
    let command = list(&container.command)?;
    let args = list(&container.args)?;
    let mut argv = match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [entrypoint.to_vec(), args].concat(),
        (true, true) => [entrypoint, cmd].concat(),
    };
    let own_command = !container.command.as_deref().unwrap_or_default().is_empty();
    let own_args = !container.args.as_deref().unwrap_or_default().is_empty();
    if !own_command && entrypoint.is_empty() && (own_args || cmd.is_empty()) {
        argv.insert(0, container.name.clone());
    }
    Ok(argv)
}

/// The host name of a pod: `spec.hostname`, else its name, cut to the 63 characters a label may have.
pub(crate) fn hostname(pod: &Pod) -> String {
    let named = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = named.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// What a pod's programs see as their host's name: [`hostname`], with its domain if the spec says so and it has one.
pub(crate) fn seen_hostname(pod: &Pod, cluster: &ClusterNames) -> String {
    let hostname = hostname(pod);
    match pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) {
        Some(true) => HostNames::of_pod(pod, &hostname, cluster).full().to_owned(),
        _ => hostname,
    }
}

/// Whether the name that a pod is to see fits where programs have it from. Kubernetes' words.
pub(crate) fn check_hostname(pod: &Pod, cluster: &ClusterNames) -> Result<(), String> {
    let name = seen_hostname(pod, cluster);
    let length = name.len();
    if length <= HOSTNAME_MAX {
        return Ok(());
    }
    Err(format!(
        "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long \
         ({HOSTNAME_MAX} characters is the max, {length} characters requested)"
    ))
}

/// Replaces `$(NAME)` where `lookup` knows it; `$$` is a literal dollar sign, everything else stays.
fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> Result<String, EnvError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) if out.len() + value.len() > MAX_BYTES => return Err(EnvError::TooLong),
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The variables that tell where the services of a pod's namespace are, and always the API server's.
pub(crate) fn service_variables<'a>(
    namespace: &str,
    links: bool,
    services: impl Iterator<Item = &'a Service>,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = of == "default" && name == "kubernetes";
        if !(master || links && of == namespace) {
            continue;
        }
        // The API server's service yields to one of the same name in the pod's own namespace.
        let shadowed = master && namespace != "default" && out.contains_key("KUBERNETES_SERVICE_HOST");
        if !shadowed {
            add_service(&mut out, name, service);
        }
    }
    out
}

fn add_service(out: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(address) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let Some(first) = spec.ports.as_deref().and_then(<[_]>::first) else { return };
    let variable = |name: &str| name.to_uppercase().replace('-', "_");
    let prefix = variable(name);
    out.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
    out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", variable(name)), number.to_string());
        }
        let url = match address.contains(':') {
            true => format!("{lower}://[{address}]:{number}"),
            false => format!("{lower}://{address}:{number}"),
        };
        if index == 0 {
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{number}_{protocol}");
        out.insert(link.clone(), url);
        out.insert(format!("{link}_PROTO"), lower);
        out.insert(format!("{link}_PORT"), number.to_string());
        out.insert(format!("{link}_ADDR"), address.to_owned());
    }
}

fn add_env_from(
    own: &mut BTreeMap<String, String>,
    facts: &PodFacts<'_>,
    container: &Container,
    sources: &dyn Sources,
) -> Result<(), EnvError> {
    let namespace = namespace(facts.pod);
    let mut room = Room(MAX_BYTES);
    let mut add = |name: String, value: String| {
        room.take(name.len() + value.len())?;
        own.insert(name, value);
        Ok(())
    };
    for from in container.env_from.as_deref().unwrap_or_default() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_map(namespace, &reference.name) {
                Some(map) => {
                    let data = map.data.iter().flatten();
                    data.map(|(key, value)| (format!("{prefix}{key}"), value.clone()))
                        .try_for_each(|(name, value)| add(name, value))?;
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secret(namespace, &reference.name) {
                Some(secret) => {
                    let data = secret.data.iter().flatten();
                    data.map(|(key, value)| (format!("{prefix}{key}"), text(&value.0)))
                        .try_for_each(|(name, value)| add(name, value))?;
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    Ok(())
}

/// `None` if the reference is optional and leads nowhere: the variable is not defined then.
fn referenced(
    facts: &PodFacts<'_>,
    container: &Container,
    from: &EnvVarSource,
    sources: &dyn Sources,
) -> Result<Option<String>, EnvError> {
    let namespace = namespace(facts.pod);
    if let Some(field) = &from.field_ref {
        return field_value(facts, field).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(facts, Some(container), resource).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.config_map(namespace, &reference.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoConfigMap(reference.name.clone())) };
        };
        let value = map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return match value {
            None if !optional => Err(EnvError::NoConfigMapKey {
                namespace: namespace.to_owned(),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
            value => Ok(value),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.secret(namespace, &reference.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoSecret(reference.name.clone())) };
        };
        let value =
            secret.data.as_ref().and_then(|data| data.get(&reference.key)).map(|value| text(&value.0));
        return match value {
            None if !optional => Err(EnvError::NoSecretKey {
                namespace: namespace.to_owned(),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
            value => Ok(value),
        };
    }
    Ok(Some(String::new()))
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// Secrets are bytes, environments are text: what is no UTF-8 is replaced rather than refused.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The value of a `fieldRef`, for variables and downward API files.
pub(crate) fn field_value(facts: &PodFacts<'_>, field: &ObjectFieldSelector) -> Result<String, EnvError> {
    let meta = &facts.pod.metadata;
    let spec = facts.pod.spec.as_ref();
    let path = field.field_path.as_str();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(EnvError::FieldPath(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(map_lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(map_lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" | "status.hostIPs" => Some(facts.host_ip.to_string()),
        "status.podIP" => facts.pod_ip.map(|ip| ip.to_string()),
        "status.podIPs" => facts.pod_ip.map(|ip| match facts.pod_ip6 {
            Some(second) => format!("{ip},{second}"),
            None => ip.to_string(),
        }),
        _ => return Err(EnvError::FieldPath(path.to_owned())),
    };
    Ok(value.unwrap_or_default())
}

/// One line per entry, `key="value"`, as the downward API prints labels.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`: the amount in units of the divisor, rounded up. Of the container that it names,
/// or else of the `own`.
pub(crate) fn resource_value(
    facts: &PodFacts<'_>,
    own: Option<&Container>,
    field: &ResourceFieldSelector,
) -> Result<String, EnvError> {
    let named = field.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        None => own,
        Some(name) => {
            let spec = facts.pod.spec.as_ref();
            let all = spec
                .into_iter()
                .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
            all.into_iter().find(|container| container.name == name)
        }
    };
    let container = container.ok_or_else(|| EnvError::NoContainer(named.unwrap_or_default().to_owned()))?;
    let unsupported = || EnvError::Resource(field.resource.clone());
    let (list, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let amount = match list {
        "limits" => limits,
        "requests" => requests,
        _ => return Err(unsupported()),
    };
    let amount = amount.and_then(|list| list.get(resource)).and_then(|text| Quantity::parse(&text.0).ok());
    // A divisor of zero is what Kubernetes stores for none.
    let divisor = field.divisor.as_ref().and_then(|text| Quantity::parse(&text.0).ok());
    let divisor = divisor.filter(|divisor| *divisor != Quantity::default());
    let is_limit = list == "limits";
    let fall_back = |node: i64| if is_limit { node } else { 0 };
    let value = match resource {
        "cpu" => {
            let milli =
                amount.map_or_else(|| fall_back(facts.allocatable.cpu_milli), |amount| amount.milli());
            divide(milli, divisor.map_or(1000, |divisor| divisor.milli()))
        }
        "memory" | "ephemeral-storage" => {
            let node = if resource == "memory" {
                facts.allocatable.memory
            } else {
                facts.allocatable.ephemeral_storage
            };
            let bytes = amount.map_or_else(|| fall_back(node), |amount| amount.value());
            divide(bytes, divisor.map_or(1, |divisor| divisor.value()))
        }
        _ => return Err(unsupported()),
    };
    Ok(value.to_string())
}

/// Rounds up.
fn divide(amount: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
