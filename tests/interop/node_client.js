// One CoAP exchange over DTLS 1.2 with node-dtls-client: the request comes on standard input, the answer goes to standard output.
// Arguments: the folder that node-dtls-client is installed in, host, port, suite, identity, key.
const path = require("path");
const { pathToFileURL } = require("url");
const [folder, address, port, suite, identity, key] = process.argv.slice(2);

const fail = (error) => {
  console.error(error);
  process.exit(1);
};
// It is an ES module, which Node.js 18 (Debian 12) does not require().
const installed = require.resolve(path.join(folder, "node_modules/node-dtls-client"));
import(pathToFileURL(installed)).then(({ dtls }) => {
  const socket = dtls.createSocket({
    type: "udp4",
    address,
    port: Number(port),
    psk: { [identity]: key },
    ciphers: [suite],
    timeout: 5000,
  });
  socket.on("error", fail);
  socket.on("connected", () => process.stdin.once("data", (request) => socket.send(request)));
  socket.on("message", (answer) => process.stdout.write(answer, () => process.exit(0)));
}, fail);
