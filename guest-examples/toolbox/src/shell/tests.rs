use std::{cell::RefCell, collections::BTreeMap, io::Cursor, rc::Rc};

use crate::{
    applets,
    call::{Call, Env, In, Out},
};

/// Runs `sh -c` in a folder and gives what it printed on both streams, and its code.
fn sh_in(dir: &std::path::Path, script: &str) -> (String, u8) {
    let printed = Rc::new(RefCell::new(Vec::new()));
    let out = Out::shared(printed.clone());
    let vars =
        BTreeMap::from([("NAME".to_owned(), "two words".to_owned()), ("EMPTY".to_owned(), String::new())]);
    let mut env = Env { vars, cwd: dir.to_owned(), depth: 0 };
    let args = ["sh", "-c", script, "name", "one", "two three"].map(str::to_owned);
    let stdin = In::new(Cursor::new("first line\nsecond line\n"));
    let code = applets::run(&mut Call { args: &args, stdin, out: out.clone(), err: out, env: &mut env });
    let text = String::from_utf8(printed.borrow().clone()).unwrap();
    (text, code)
}

#[track_caller]
fn check(script: &str, expected: &str, code: u8) {
    let dir = applets::tests::Folder::new();
    assert_eq!(sh_in(&dir.0, script), (expected.to_owned(), code), "{script}");
}

#[test]
fn words_are_split_and_quoted_as_in_a_shell() {
    check("echo a  b", "a b\n", 0);
    check("echo 'a  b' \"c  d\" e\\ \\ f", "a  b c  d e  f\n", 0);
    check("printf '[%s]' $NAME \"$NAME\" $EMPTY \"$EMPTY\" $NONE", "[two][words][two words][]", 0);
    check("printf '[%s]' x$NAME.y", "[xtwo][words.y]", 0);
    check("echo '$NAME' \\$NAME \"\\$NAME\" $ \"a$\"", "$NAME $NAME $NAME $ a$\n", 0);
    check(
        "echo ${NAME}s ${NONE:-none at all} ${EMPTY:-empty} ${NAME:+set} [${NONE:+set}] ${#NAME}",
        "two wordss none at all empty set [] 9\n",
        0,
    );
    check("echo $0 $1 $#; printf '[%s]' \"$@\"", "name one 2\n[one][two three]", 0);
    check("X=1; Y=$X$X; echo $Y; X=2 env | grep ^X=; echo $X", "11\nX=2\n1\n", 0);
    check("echo $(echo inner; echo more) \"`echo old`\"", "inner more old\n", 0);
    check("echo a # comment\necho 'b' # '\n", "a\nb\n", 0);
    check("echo ${NONE:?is missing}; echo $?", "sh: NONE: is missing\n2\n", 0);
}

#[test]
fn commands_are_joined() {
    check("true && echo yes || echo no", "yes\n", 0);
    check("false && echo yes || echo no", "no\n", 0);
    check("false; echo $?; ! false; echo $?", "1\n0\n", 0);
    check("exit 7; echo never", "", 7);
    check("(exit 3); echo $?", "3\n", 0);
    check("nonsense; echo $?", "sh: nonsense: not found\n127\n", 0);
    check("set -e; false || echo caught; false; echo never", "caught\n", 1);
    check("if test -e none; then echo a; elif true; then echo b; else echo c; fi", "b\n", 0);
    check("for i in 1 2 3; do if [ $i = 2 ]; then continue; fi; echo $i; done", "1\n3\n", 0);
    check("while true; do echo once; break; done", "once\n", 0);
    check("while read a b; do echo \"$b $a\"; done", "line first\nline second\n", 0);
    check("{ echo a; echo b; } | wc -l", "2\n", 0);
    check("X=1; (X=2; cd /); echo $X; X=3 | true; echo $X", "1\n1\n", 0);
    check("env sh -c 'exit 5'; echo $?; exec sh -c 'exit 6'; echo never", "5\n", 6);
}

#[test]
fn numbers_are_counted_with() {
    check("echo $((1 + 2 * 3)) \"$(( (1+2) * 3 ))\" x$((0))y", "7 9 x0y\n", 0);
    check("i=0; while [ $i -lt 3 ]; do i=$((i + 1)); echo $i; done", "1\n2\n3\n", 0);
    check("N=4; echo $(($N * N)) $(($(echo 2) + ${NONE:-5})) $(($#))", "16 7 2\n", 0);
    check("echo $( (echo a); (echo b) )$((echo c); (echo d))", "a bc d\n", 0);
}

#[test]
fn cases_are_told_apart() {
    let script = "for w in a b.txt '*' d; do case $w in a) echo first;; *.txt | *.md) echo text;; '*') echo star;; (*) echo other; esac; done";
    check(script, "first\ntext\nstar\nother\n", 0);
    check("case $NAME in 'two words') echo yes;; esac; echo $?", "yes\n0\n", 0);
    check("false; case x in y) ;; esac; echo $?; case x in\n\nx)\nfalse\n;;\nesac\necho $?", "0\n1\n", 0);
    check("case a in b) echo b;; esac | wc -l; if case a in a) true;; esac; then echo in; fi", "0\nin\n", 0);
}

#[test]
fn streams_go_where_they_are_sent() {
    check("echo a > f; echo b >> f; cat < f; cat f | sort -r | head -n1", "a\nb\nb\n", 0);
    check("ls none > f 2>&1; cat f", "ls: none: No such file or directory\n", 0);
    check("ls none 2> /dev/null || echo quiet", "quiet\n", 0);
    check(
        "echo a >&2 2>&1 | wc -c; cat nothing < none; echo $?",
        "a\n0\nsh: can't open none: No such file or directory\n2\n",
        0,
    );
    check(
        "touch b.txt a.txt c.md .h.txt; echo *.txt '*.txt' \"*\".txt *.none; mkdir d; touch d/x; echo */x",
        "a.txt b.txt *.txt *.txt *.none\nd/x\n",
        0,
    );
    check(
        "mkdir -p a/b; cd a/b; cd ..; ls; cd none; echo $?",
        "b\nsh: cd: can't cd to none: No such file or directory\n1\n",
        0,
    );
    check("yes", "sh: yes: not found\n", 127);
}

#[test]
fn what_is_not_a_script_is_refused() {
    for (script, message) in [
        ("echo 'a", "unexpected end of file (looking for ')"),
        ("if true; then echo", "unexpected end of file"),
        ("echo )", "unexpected \")\""),
        ("| wc", "unexpected \"|\""),
        ("done", "unexpected \"done\""),
        ("sleep 1 &", "jobs (&) are not supported here"),
        ("f() { true; }", "functions are not supported here"),
        ("echo $((1+))", "arithmetic expression: syntax error"),
        ("echo $((1 / 0))", "arithmetic expression: division by zero"),
        ("case a in a) echo", "unexpected end of file"),
        ("case a in a echo;; esac", "unexpected"),
        ("echo a;; echo b", "unexpected \";;\""),
        ("esac", "unexpected \"esac\""),
        ("echo ${}", "bad substitution"),
        ("echo 5>&9 x", "bad file descriptor"),
    ] {
        let dir = applets::tests::Folder::new();
        let (printed, code) = sh_in(&dir.0, script);
        assert!(printed.contains(message) && code == 2, "{script}: {printed}{code}");
    }
}

#[test]
fn depth_is_bounded() {
    for script in [
        "(".repeat(5000),
        "! ".repeat(5000),
        "{ ".repeat(5000),
        "$(".repeat(5000),
        "${a:-".repeat(5000),
        "$((".repeat(5000),
        "case a in a) ".repeat(5000),
        format!("{}true{}", "( ".repeat(500), " )".repeat(500)),
    ] {
        let dir = applets::tests::Folder::new();
        assert_eq!(sh_in(&dir.0, &script).1, 2, "{}", &script[..8]);
    }
    check("echo 'sh me || exit 9' > me; sh me 2> /dev/null; echo $?", "9\n", 0);
    check("echo '. ./me || exit 9' > me; sh me 2> /dev/null; echo $?", "9\n", 0);
}
