package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// TestPattern proves that a piece does not depend on how the pattern is divided, and does not match
// at another offset.
func TestPattern(t *testing.T) {
	whole := append(bytes.Clone(piece(0, maxPiece)), piece(maxPiece, maxPiece)...)
	if !matches(whole, 0) {
		t.Fatal("two consecutive pieces do not match the pattern")
	}
	for _, offset := range []uint64{0, 1, period - 1, period, period + 1, 1 << 40} {
		for _, n := range []int{0, 1, 100, maxPiece} {
			got := piece(offset, n)
			if len(got) != n || !matches(got, offset) {
				t.Fatalf("%d bytes at %d do not match the pattern", n, offset)
			}
			for i := range min(n, 100) {
				if got[i] != pattern[(offset+uint64(i))%period] {
					t.Fatalf("byte %d of the piece at %d: got %d", i, offset, got[i])
				}
			}
			if n >= 100 && matches(got, offset+1) {
				t.Errorf("the piece at %d also matches at the next offset", offset)
			}
		}
	}
}

// TestFrames proves that frames are parsed however reads divide them, and that any wrong pattern
// byte is found.
func TestFrames(t *testing.T) {
	const size, count = 40, 5
	var stream []byte
	for i := range uint64(count) {
		stream = binary.BigEndian.AppendUint64(stream, 1000+i)
		stream = append(stream, piece(i*size, size)...)
	}
	for cut := range len(stream) {
		f := frames{size: size}
		first, err := f.feed(stream[:cut])
		second, err2 := f.feed(stream[cut:])
		if err := errors.Join(err, err2); err != nil || first+second != size*count || f.counted != 1000+count-1 {
			t.Fatalf("cut at %d: %d and %d bytes, count %d, %v", cut, first, second, f.counted, err)
		}
	}
	for i := range stream {
		bad := bytes.Clone(stream)
		bad[i] ^= 1
		f := frames{size: size}
		_, err := f.feed(bad)
		if inCount := i%(countSize+size) < countSize; inCount == errors.Is(err, errCorrupt) {
			t.Errorf("byte %d is wrong: got %v", i, err)
		}
	}
}

// TestFramesWithoutPattern proves that frames with only a count are parsed, and that a count of all
// ones is an error.
func TestFramesWithoutPattern(t *testing.T) {
	f := frames{}
	b := binary.BigEndian.AppendUint64(nil, 7)
	b = binary.BigEndian.AppendUint64(b, 9)
	if n, err := f.feed(b); n != 0 || err != nil || f.counted != 9 {
		t.Errorf("got %d bytes, count %d, %v", n, f.counted, err)
	}
	if _, err := f.feed(binary.BigEndian.AppendUint64(nil, corrupt)); !errors.Is(err, errCorrupt) {
		t.Errorf("a count of all ones: got %v", err)
	}
}

// TestDatagram proves that a datagram is parsed as it was encoded, and that a truncated or corrupt
// one is not ok.
func TestDatagram(t *testing.T) {
	b := appendDatagram(nil, datagramData, 5, 77, 100)
	if kind, run, seq, ok := parseDatagram(b); len(b) != 100 || kind != datagramData || run != 5 || seq != 77 || !ok {
		t.Fatalf("got %c %d %d %v of %d bytes", kind, run, seq, ok, len(b))
	}
	for n := range datagramHeader {
		if _, _, _, ok := parseDatagram(b[:n]); ok {
			t.Errorf("%d bytes are parsed as a datagram", n)
		}
	}
	for i := 9; i < len(b); i++ {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, _, _, ok := parseDatagram(bad); ok {
			t.Errorf("wrong byte %d is not detected", i)
		}
	}
}
