# status: 3
# needs: /usr/bin/node
cat >"$HOME/children.js" <<'END'
const {execSync, execFile, spawn, fork} = require('child_process');
if (process.argv[2] === 'child') {
  process.on('message', (value) => process.send(value * 2, () => process.disconnect()));
} else {
  console.log(execSync('echo from the shell').toString());
  const cat = spawn('cat');
  let got = 0;
  cat.stdout.on('data', (data) => got += data.length);
  cat.on('close', (status) => {
    console.log('cat', status, got);
    execFile('false', (error) => {
      console.log('false', error.code);
      const child = fork(__filename, ['child']);
      child.on('message', (value) => console.log('message', value));
      child.on('exit', () => process.exit(3));
      child.send(21);
    });
  });
  cat.stdin.end('x'.repeat(500000));
}
END
exec node "$HOME/children.js"
