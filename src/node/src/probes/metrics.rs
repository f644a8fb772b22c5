//! What Prometheus learns of probes: the kubelet's `prober_probe_total`.

use std::{fmt::Write, sync::atomic::Ordering};

use super::Prober;

impl Prober {
    /// The counters of all probes that are made now, in Prometheus' text format.
    pub(crate) fn metrics(&self) -> String {
        let mut tasks: Vec<_> =
            self.shared.state.lock().entries.iter().map(|(id, entry)| (*id, entry.task.clone())).collect();
        tasks.sort_by_key(|(id, _)| *id);
        let mut text = String::from(
            "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.\n\
             # TYPE prober_probe_total counter\n",
        );
        for (_, task) in tasks {
            let target = &task.target;
            let key = target.handle.key();
            for (result, count) in [("successful", &task.counts.successful), ("failed", &task.counts.failed)]
            {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    // Writing to a string cannot fail.
                    let _ = writeln!(
                        text,
                        "prober_probe_total{{container=\"{}\",namespace=\"{}\",pod=\"{}\",pod_uid=\"{}\",probe_type=\"{}\",result=\"{result}\"}} {count}",
                        target.container,
                        key.namespace,
                        key.name,
                        target.handle.uid(),
                        target.kind_text(),
                    );
                }
            }
        }
        text
    }
}
