// Package proxyenv makes the environment variables by which programs find the proxy of a node, and
// prints them for shells, env files and CI systems.
//
// Goroutines: none.
package proxyenv
