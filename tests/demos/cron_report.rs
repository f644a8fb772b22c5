use super::start;

#[test]
fn a_job_of_the_cron_job_reports_what_lies_in_the_volume() {
    let Some(cluster) = start(&[("cron-report", "cron-report:1")], "cron-report/cron-report.yaml") else {
        return;
    };
    // Nobody waits for the full minute.
    cluster.kubectl("create job --from=cronjob/report now");
    cluster.kubectl("wait --for=condition=complete job/now --timeout=60s");
    let report = cluster.kubectl("logs job/now");
    assert_eq!(
        report,
        "sales of 2 files\ncoffee             4\ntea                8\ntotal             12\n"
    );
    let schedule = cluster.kubectl("get cronjob report -o 'jsonpath={.spec.schedule}'");
    assert_eq!(schedule, "* * * * *");
}
