//! `lb-agent doctor`.

use super::{DoctorArgs, FAILED, Failure, print, runtime};
use crate::agent::node::{self, Findings};
use crate::config;
use crate::doctor::{Finding, Level, Scope, examine};

pub(super) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let config = config::load(&args.config).map_err(Failure::usage)?;
    if let Some(name) = args.service.as_ref().filter(|name| config.services.iter().all(|s| s.name != **name))
    {
        let known: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "lb-agent: --service {name}: there is no such service in {}; it has {}",
            args.config.display(),
            known.join(", ")
        )));
    }
    let scope = Scope { service: args.service.clone(), sessions: !args.no_sessions };
    let findings = runtime()?.block_on(async {
        let mut findings =
            of_node(node::findings(&config).await.map_err(|e| Failure::failed(format!("{e:#}")))?);
        findings.extend(examine(&config, &scope).await.map_err(Failure::failed)?);
        Ok::<_, Failure>(findings)
    })?;
    print(&if args.json { json(&findings)? } else { lines(&findings) })?;
    let failed = findings.iter().filter(|f| f.level == Level::Fail).count();
    if failed > 0 {
        return Err(Failure {
            status: FAILED,
            text: format!("lb-agent: {failed} of {} findings are failures", findings.len()),
        });
    }
    Ok(())
}

/// What `check --node` says, too.
fn of_node(found: Findings) -> Vec<Finding> {
    const SUBJECT: &str = "configuration";
    let Findings { errors, warnings } = found;
    if errors.is_empty() && warnings.is_empty() {
        return vec![Finding::ok(SUBJECT, "fits this node: interfaces, ports and addresses")];
    }
    let line =
        |level, text: String| Finding { level, subject: SUBJECT.to_owned(), text, advice: String::new() };
    let errors = errors.into_iter().map(|text| line(Level::Fail, text));
    errors.chain(warnings.into_iter().map(|text| line(Level::Warn, text))).collect()
}

fn json(findings: &[Finding]) -> Result<String, Failure> {
    serde_json::to_string_pretty(findings).map(|text| text + "\n").map_err(Failure::failed)
}

/// One line each.
fn lines(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.subject.len()).max().unwrap_or(0);
    findings
        .iter()
        .map(|Finding { level, subject, text, advice }| {
            let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
            format!("{level:<4}  {subject:<width$}  {text}{advice}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each() {
        let findings = [
            Finding::ok("kernel", "Linux 6.18"),
            Finding::fail("superset/superset-1", "GET /health: connection refused", "start the pod"),
        ];
        assert_eq!(
            lines(&findings),
            "ok    kernel               Linux 6.18\n\
             fail  superset/superset-1  GET /health: connection refused; start the pod\n"
        );
        let back: serde_json::Value = serde_json::from_str(&json(&findings).unwrap_or_default()).unwrap();
        assert_eq!(back[1]["level"], "fail");
    }

    #[test]
    fn what_does_not_fit_the_node_is_as_bad_as_it_is_there() {
        let levels = |errors: &[&str], warnings: &[&str]| {
            let own = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
            let found = of_node(Findings { errors: own(errors), warnings: own(warnings) });
            found.iter().map(|f| f.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&[], &[]), [Level::Ok]);
        assert_eq!(levels(&["a"], &["b", "c"]), [Level::Fail, Level::Warn, Level::Warn]);
    }
}
