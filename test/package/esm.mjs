// The package by import; also what the bundles are made of.
import * as anchorcoder from 'anchorcoder';
import { check } from './check.mjs';

await check(anchorcoder, JSON.parse(process.env.PACKAGE_CASE));
