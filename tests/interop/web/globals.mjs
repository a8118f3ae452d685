// What a browser has and Node has only from 20 (crypto) and 22 (WebSocket) on; Debian 12 has 18.
import {webcrypto} from 'node:crypto';
import ws from 'ws';

globalThis.WebSocket ??= ws;
globalThis.crypto ??= webcrypto;
