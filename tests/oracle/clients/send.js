// Every kind that hot-shots and node-statsd have: send.js FOLDER CLIENT PORT
const [folder, which, port] = process.argv.slice(2);
const StatsD = require(require.resolve(which, { paths: [folder] }));
const prefix = which.replace('-', '_') + '.';
if (which === 'hot-shots') {
  const c = new StatsD({ host: '127.0.0.1', port: Number(port), prefix, globalTags: { env: 'prod' } });
  c.increment('c', 3, { k: 'v' });
  c.decrement('c', 1, { k: 'v' });
  c.gauge('g', 7.5);
  c.timing('t', 12.5);
  c.histogram('h', 3);
  c.distribution('d', 4);
  c.set('s', 'u1');
  c.unique('s', 'u2');
  c.event('title', 'te|xt', { alert_type: 'error' });
  c.check('sc', c.CHECKS.WARNING, { message: 'warn' });
  c.close();
} else {
  const c = new StatsD({ host: '127.0.0.1', port: Number(port), prefix });
  c.increment('c');
  c.increment('c', 2);
  c.decrement('c');
  c.gauge('g', 7.5);
  c.timing('t', 12.5);
  c.histogram('h', 3);
  c.set('s', 'u1');
  c.unique('s', 'u2');
  setTimeout(() => c.close(), 300);
}
