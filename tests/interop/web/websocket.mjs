// A WebSocket as in a browser; Node 22 has one of its own.
import ws from 'ws';

globalThis.WebSocket ??= ws;
