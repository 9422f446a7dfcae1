# status: 5
# needs: /usr/bin/node
cat >"$HOME/worker.js" <<'END'
const {Worker, isMainThread, parentPort} = require('worker_threads');
if (isMainThread) {
  const worker = new Worker(__filename);
  worker.on('message', (value) => console.log(value));
  worker.on('exit', (status) => process.exit(5 + status));
  worker.postMessage(4);
} else {
  parentPort.once('message', (value) => parentPort.postMessage(value * value));
}
END
exec node "$HOME/worker.js"
