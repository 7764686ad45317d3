// The package by require().
const anchorcoder = require('anchorcoder');

module.exports = import('./check.mjs').then(({ check }) =>
  check(anchorcoder, JSON.parse(process.env.PACKAGE_CASE)),
);
