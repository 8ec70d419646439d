//! Sockets, batches of datagrams and errno judgement; nothing of CoAP.
