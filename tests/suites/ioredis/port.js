// Loaded before ioredis's tests: their server is the one of SUITE_PORT.
const Redis = require(process.cwd() + '/lib/redis')

Redis.defaultOptions.port = Number(process.env.SUITE_PORT)
Redis.defaultOptions.host = '127.0.0.1'
