//go:build !linux

package main

func beSubreaper() {}
