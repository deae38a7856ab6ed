// Package derp is what the two ends of a DERP connection have in common: the frames and the login
// (frame.go, login.go), the HTTP headers of the upgrade (http.go), the certificate that carries a
// server's key (metacert.go), and a connection that is read and written in batches.
//
// Such a connection has three parts. [FrameReader] takes frames from it, as many at a time as one
// read brings. [FrameConn] writes whole frames to it and, on TCP, never waits for the network.
// [Outbox] owns the right to write to it, and queues frames by flow while the connection is busy.
//
// Section numbers in comments are those of the project's DERP specification.
package derp
