//! Pod specs: what is filled in and what is refused, for pods and for every kind that carries a pod
//! template. Written once here, so that a deployment's template and the pod that comes of it agree.
//!
//! - [`default_template`] and [`default_spec`] fill in; [`default_pod`] adds what only a pod gets.
//! - [`check_template`] and [`check_spec`] name what is wrong, in Kubernetes' words.
//! - [`qos_class`] says which pods are evicted first.
//!
//! Fields that make no sense for modules (capabilities, SELinux, host users, block devices, …) are
//! checked as Kubernetes checks them and then stored; the node ignores them.

mod containers;
mod defaults;
mod env;
mod handlers;
mod resources;
mod scheduling;
mod security;
mod spec;
mod volumes;

pub(super) use containers::is_sidecar;
pub(super) use defaults::{default_pod, default_spec, default_template, default_volume_sources};
pub(super) use resources::{
    amount, check_amount, check_container_resource, check_resource_name, is_standard_resource,
    may_overcommit, qos_class,
};
pub(super) use scheduling::{check_label_selector, check_node_selector, check_taints, check_tolerations};
pub(super) use spec::{Holder, check_annotations, check_spec, check_template};
pub(super) use volumes::{check_no_backsteps, check_source as check_volume_source};
