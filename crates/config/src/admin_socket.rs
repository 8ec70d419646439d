//! Where the Unix socket of the management interface is.

use std::path::{Path, PathBuf};

use super::Config;

/// Its name where the configuration gives none.
const NAME: &str = "admin.sock";

/// The runtime directory that the packaged unit has, and the state directory that goes with it.
pub(super) const SERVICE: (&str, &str) = ("/run/portcullis", "/var/lib/portcullis");

/// Where the gateway listens: `admin.socket`, else in `$RUNTIME_DIRECTORY`, else in the state directory.
#[must_use]
pub fn served_at(config: &Config) -> PathBuf {
    let runtime = std::env::var_os("RUNTIME_DIRECTORY");
    // A unit with several runtime directories has them in one variable.
    let runtime = runtime.and_then(|all| std::env::split_paths(&all).next());
    path(config, runtime.filter(|first| first.is_absolute()))
}

fn path(config: &Config, runtime: Option<PathBuf>) -> PathBuf {
    let own = config.admin.socket.clone();
    own.unwrap_or_else(|| {
        runtime
            .unwrap_or_else(|| config.node.state_dir.clone())
            .join(NAME)
    })
}

/// Where a gateway of this configuration may be found, the likeliest first. The socket of the service counts for a
/// configuration with the state directory of the service only: another gateway on this machine is not meant by it.
#[must_use]
pub fn candidates(config: &Config) -> Vec<PathBuf> {
    if let Some(own) = &config.admin.socket {
        return vec![own.clone()];
    }
    let (runtime, state) = SERVICE;
    let service = (config.node.state_dir == Path::new(state)).then(|| Path::new(runtime).join(NAME));
    let own = config.node.state_dir.join(NAME);
    service.into_iter().chain([own]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    #[test]
    fn the_key_comes_first_and_another_gateways_socket_never() {
        let named = parse("[admin]\nsocket = \"/x/y.sock\"\n").unwrap();
        assert_eq!(path(&named, Some("/run/p".into())), Path::new("/x/y.sock"));
        assert_eq!(candidates(&named), [Path::new("/x/y.sock")]);
        let service = parse("").unwrap();
        assert_eq!(
            path(&service, Some("/run/p".into())),
            Path::new("/run/p/admin.sock")
        );
        assert_eq!(
            candidates(&service),
            ["/run/portcullis/admin.sock", "/var/lib/portcullis/admin.sock"].map(Path::new)
        );
        let own = parse("[node]\nstate_dir = \"/srv/gw\"\n").unwrap();
        assert_eq!(path(&own, None), Path::new("/srv/gw/admin.sock"));
        assert_eq!(candidates(&own), [Path::new("/srv/gw/admin.sock")]);
    }
}
