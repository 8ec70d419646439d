//! `user import` and `psk import`: what other gateways wrote lets in here, all of it or nothing.

use std::io::Write as _;
use std::process::{Command, Stdio};

use openssl::sha::sha256;
use serde_json::json;

use crate::support::gateway::hex;
use crate::support::{Client, Config, Gateway, Kind, Request, code, dtls};

struct Ran {
    code: i32,
    said: String,
}

/// `portcullis WHAT import INPUT`, `text` being on standard input.
fn import(gateway: &Gateway, what: &str, arguments: &[&str], text: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args([what, "import"])
        .args(arguments)
        .arg("--config")
        .arg(gateway.path("portcullis.toml"))
        .current_dir(gateway.directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads a file may have ended by now.
    drop(child.stdin.take().unwrap().write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        said: String::from_utf8([output.stdout, output.stderr].concat()).unwrap(),
    }
}

impl Ran {
    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "{}", self.said);
        self.said
    }

    #[track_caller]
    fn refused(self, lines: &[&str]) {
        assert_eq!(self.code, 65, "{}", self.said);
        for line in lines.iter().chain(&["nothing was imported"]) {
            assert!(self.said.contains(line), "no {line:?} in {}", self.said);
        }
    }
}

fn users() -> Gateway {
    let config = Config::new().set("authentication", "backend = \"file\"\nfile = \"users.txt\"");
    Gateway::start(config.file("users.txt", "# kept\n"))
}

fn salted(salt: &str, password: &str) -> String {
    hex(&sha256(format!("{salt}{password}").as_bytes()))
}

#[track_caller]
fn comes_in(client: &mut Client, user: &str, password: &str, wanted: u8) {
    let request = Request::put(&format!("ps/t?u={user}&p={password}")).payload("x");
    client.request(&request).expect(wanted);
}

#[test]
fn users_of_another_gateway_log_in_with_the_hashes_that_it_wrote() {
    let gateway = users();
    let bcrypt = "$2b$04$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";
    let csv = format!(
        "user_id,password_hash,salt,is_superuser\r\nann,{},ann-salt,true\r\n\"b,ob\",{},\"s\"\"alt\",false\r\ncy,{bcrypt},,\r\n",
        salted("ann-salt", "one"),
        salted("s\"alt", "two"),
    );
    gateway.write("users.csv", csv.as_bytes());
    let said = import(&gateway, "user", &["users.csv", "--algorithm", "sha256"], "").succeeded();
    assert!(
        said.contains("3 imported") && said.contains("1 of them were superusers"),
        "{said}"
    );
    let list = json!([
        {"user_id": "dan", "password_hash": salted("", "three"), "salt": null, "is_superuser": false},
        {"user_id": "eve", "password": "four"},
    ]);
    let disable = ["-", "--algorithm", "sha256", "--salt-position", "disable"];
    import(&gateway, "user", &disable, &list.to_string()).succeeded();
    assert!(gateway.reloaded());
    let mut client = gateway.client(Kind::Udp);
    for (user, password) in [("ann", "one"), ("b,ob", "two"), ("dan", "three"), ("eve", "four")] {
        comes_in(&mut client, user, password, code::CHANGED);
        comes_in(&mut client, user, "other", code::UNAUTHORIZED);
    }
    let kept = std::fs::read_to_string(gateway.path("users.txt")).unwrap();
    assert!(
        kept.starts_with("# kept\nann:$sha256$prefix$") && kept.contains(bcrypt),
        "{kept}"
    );
    assert!(!kept.contains("four"), "{kept}");
}

#[test]
fn what_is_wrong_is_told_by_its_lines_and_nothing_of_it_is_imported() {
    let gateway = users();
    let good = salted("s", "secret-word");
    import(&gateway, "user", &["-"], "user_id,password\nann,one\n").succeeded();
    let before = std::fs::read(gateway.path("users.txt")).unwrap();
    let csv = format!(
        "user_id,password_hash,salt,is_superuser\nbob,{good},s,false\nann,{good},s,false\nbob,{good},s,false\n,{good},s,\n\
         cy,secret-word,s,\ndan,{good},,\neve,{good},s,maybe\nfay,{good}\ngil,{},s,\n",
        &good[2..]
    );
    let sha256 = ["-", "--algorithm", "sha256"];
    // What is no CSV is told before what stands in it.
    import(&gateway, "user", &sha256, &csv).refused(&["line 9: it has 2 fields, the first line names 4"]);
    let csv = csv.replace(&format!("fay,{good}\n"), "");
    let ran = import(&gateway, "user", &sha256, &csv);
    assert!(
        !ran.said.contains("secret-word") && !ran.said.contains(&good[..20]),
        "{}",
        ran.said
    );
    ran.refused(&[
        "line 4: it stands on line 2 already",
        "line 5: user_id is missing",
        "line 6: password_hash is no hexadecimal digits",
        "line 7: salt is missing",
        "line 8: is_superuser is true or false",
        "line 9: a hash of this kind has 32 bytes",
    ]);
    let one = format!("user_id,password_hash,salt\nnew,{good},s\nann,{good},s\n");
    import(&gateway, "user", &sha256, &one).refused(&["line 3: it is there already; --replace"]);
    import(&gateway, "user", &["-"], &one).refused(&["line 2: password_hash does not tell how it was made"]);
    let list = format!(
        "[\n  {{\"user_id\": \"new\", \"password_hash\": \"{good}\", \"salt\": \"s\"}},\n\n  {{\"user_id\": \"odd\",\n \"pass\": 1}},\n 7]"
    );
    import(&gateway, "user", &sha256, &list)
        .refused(&["line 4: an object has members of", "line 6: this is no object"]);
    for (text, told) in [
        ("[{\"user_id\": \"a\"\n,]", "line 2: this is no JSON list"),
        ("user_id,pass\na,b\n", "line 1: the first line names the columns"),
        (
            "user_id,user_id\na,b\n",
            "line 1: the first line names the columns",
        ),
    ] {
        import(&gateway, "user", &sha256, text).refused(&[told]);
    }
    assert_ne!(import(&gateway, "user", &["-"], "").code, 0);
    assert_ne!(import(&gateway, "user", &["nothing.csv"], "").code, 0);
    assert_eq!(std::fs::read(gateway.path("users.txt")).unwrap(), before);
    import(
        &gateway,
        "user",
        &["-", "--algorithm", "sha256", "--replace"],
        &one,
    )
    .succeeded();
    assert!(gateway.reloaded());
    let mut client = gateway.client(Kind::Udp);
    comes_in(&mut client, "ann", "secret-word", code::CHANGED);
    comes_in(&mut client, "ann", "one", code::UNAUTHORIZED);
}

#[test]
fn keys_of_another_gateway_make_handshakes() {
    let gateway = Gateway::start(Config::new());
    let key = "00ff10203040506070809000a0b0c0d0";
    gateway.write(
        "keys.csv",
        format!("identity,key\nlamp-1,{key}\nhex:6c616d702d32,{key}\n").as_bytes(),
    );
    import(&gateway, "psk", &["keys.csv"], "").succeeded();
    import(
        &gateway,
        "psk",
        &["-"],
        "# of the other\nlamp-3:a:secret:with:colons!\n\n",
    )
    .succeeded();
    let list = json!([{"identity": "lamp-4", "secret": "correct-horse-battery"}]).to_string();
    import(&gateway, "psk", &["-", "--format", "json"], &list).succeeded();
    assert!(gateway.reloaded());
    let as_bytes = |text: &str| text.as_bytes().to_vec();
    for (identity, key) in [
        ("lamp-1", hex_bytes(key)),
        ("lamp-2", hex_bytes(key)),
        ("lamp-3", as_bytes("a:secret:with:colons!")),
        ("lamp-4", as_bytes("correct-horse-battery")),
    ] {
        let mut client = Client::dtls(gateway.dtls_addr(), &dtls::Options::psk(identity, &key));
        client.publish("ps/t", "x");
    }
    let before = std::fs::read(gateway.path("psk.txt")).unwrap();
    import(
        &gateway,
        "psk",
        &["-"],
        "new:secret\nlamp-3:x\nnew:again\nempty:\n",
    )
    .refused(&["line 3: it stands on line 1 already", "line 4: it needs key"]);
    import(&gateway, "psk", &["-"], "new:secret\nlamp-3:x\n").refused(&["line 2: it is there already"]);
    import(&gateway, "psk", &["-"], "identity,key\na,0g\nhex:6,00\n").refused(&["line 2: ", "line 3: "]);
    assert_eq!(std::fs::read(gateway.path("psk.txt")).unwrap(), before);
    gateway.assert_serves();
}

fn hex_bytes(digits: &str) -> Vec<u8> {
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}
