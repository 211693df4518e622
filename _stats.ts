// Copyright 2026 the Daystar authors. MIT license.

/** What clients, servers and sockets count, for whoever wants to see what happens. */

/** Messages and bytes, as {@linkcode TCPClient.stats} gives them. */
export interface Stats {
  /**
   * Whole messages that were UTF-8. They count when they are decoded for a receiver or
   * a callback, several at a time; those that nobody asks for do not count.
   */
  messagesIn: number;
  /** Messages whose bytes the kernel has taken. */
  messagesOut: number;
  /** Bytes that arrived, terminators included. */
  bytesIn: number;
  /** Bytes that the kernel has taken, terminators included. */
  bytesOut: number;
  /** Whole messages that were not UTF-8, counted likewise. */
  invalidMessages: number;
}

/** What {@linkcode TCPServer.stats} gives: of all clients, those gone included. */
export interface ServerStats extends Stats {
  /** Clients that were let in. */
  connectionsAccepted: number;
  /** Connections closed at once: not allowed, too many, or no TLS. */
  connectionsRefused: number;
  /** Clients disconnected because too many bytes waited for them. */
  slowClientsDropped: number;
}

/** What {@linkcode UDPSocket.stats} gives. */
export interface UDPStats extends Stats {
  /** Datagrams of senders that are not allowed; what the kernel drops, it does not tell. */
  datagramsDropped: number;
}

/** All zero. */
export function newStats(): Stats {
  return {
    messagesIn: 0,
    messagesOut: 0,
    bytesIn: 0,
    bytesOut: 0,
    invalidMessages: 0,
  };
}
