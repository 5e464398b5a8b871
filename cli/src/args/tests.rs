//! Command lines and what they are read as.

use super::*;

fn read(line: &str) -> Result<(Cli, OutputArgs), clap::Error> {
    parse(line.split(' ').map(Into::into))
}

#[test]
fn the_tree_is_sound() {
    command().debug_assert();
}

#[test]
fn format_stands_before_or_behind_the_verb() {
    for line in [
        "keystile db ls -f json",
        "keystile --format json db ls",
        "keystile db -f json ls",
        "keystile -f yaml db ls --format=json",
    ] {
        assert_eq!(read(line).unwrap().1.format, Some(Format::Json), "{line}");
    }
}

#[test]
fn f_is_the_document_in_create_and_edit() {
    let (cli, output) = read("keystile create -f a.yaml --format json").unwrap();
    assert!(matches!(cli.verb, Verb::Create { file } if file.as_os_str() == "a.yaml"));
    assert_eq!(output.format, Some(Format::Json));
    assert!(matches!(read("keystile edit role/x -f -").unwrap().0.verb, Verb::Edit { file: Some(_), .. }));
}

#[test]
fn out_is_a_folder_in_host_cert() {
    let (cli, output) = read("keystile ca host-cert --group g --out d --name a --name b").unwrap();
    assert!(matches!(cli.verb, Verb::Ca(Ca::HostCert { name, .. }) if name == ["a", "b"]));
    assert_eq!(output.out, None);
    assert_eq!(read("keystile db ls -o x").unwrap().1.out, Some(PathBuf::from("x")));
}

#[test]
fn a_command_behind_two_dashes_is_taken_as_it_is() {
    let (cli, _) = read("keystile db connect orders --db-user ro -- SET k -1 --format").unwrap();
    assert!(
        matches!(cli.verb, Verb::Db(Db::Connect { command, .. }) if command == ["SET", "k", "-1", "--format"])
    );
    assert_eq!(read("keystile db connect orders GET k").unwrap_err().exit_code(), 2);
}

#[test]
fn wrong_lines_exit_2_and_suggest() {
    let error = read("keystile db conect x").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("'connect'"), "{error}");
    for line in [
        "keystile locks add",
        "keystile proxy db x --port 1",
        "keystile login --ttl 5x",
        "keystile discover run --matchers f",
    ] {
        assert_eq!(read(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn json_is_noticed_in_a_broken_line() {
    let asks = |line: &str| asks_for_json(&line.split(' ').map(Into::into).collect::<Vec<_>>());
    assert!(
        asks("keystile db lz --format json")
            && asks("keystile nope -f json")
            && asks("keystile x --format=json")
    );
    assert!(!asks("keystile db lz") && !asks("keystile db connect x -- -f json"));
}
