// One instance that beats with hot-shots: beat.js FOLDER PORT SERVICE INSTANCE SECONDS
const [folder, port, service, instance, seconds] = process.argv.slice(2);
const StatsD = require(require.resolve('hot-shots', { paths: [folder] }));
const client = new StatsD({ host: '127.0.0.1', port: Number(port), errorHandler: () => {} });
const beat = () => client.gauge('heartbeat', Number(seconds), { service, instance, start: String(process.pid) });
beat();
setInterval(beat, Number(seconds) * 1000);
