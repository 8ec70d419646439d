//! Authentication backends: they read files, ask servers and hash passwords, all off the packet path.
