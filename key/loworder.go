package key

import "errors"

// lowOrder lists the public keys whose shared secret with every private key is zero (RFC 7748,
// section 6.1): the points of order 1, 2, 4 and 8, and values congruent to one of them modulo
// 2^255-19. Nobody has a private key for them, so a handshake with one authenticates nobody.
var lowOrder = [...][Size]byte{
	{},
	{0: 1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
	nearPrime(0xec),
	nearPrime(0xed),
	nearPrime(0xee),
}

// nearPrime returns 2^255-19 (low is 0xed) or a number next to it.
func nearPrime(low byte) (k [Size]byte) {
	for i := range k {
		k[i] = 0xff
	}
	k[0], k[Size-1] = low, 0x7f
	return k
}

var errLowOrder = errors.New("key is a point of low order, which nobody can have a private key for")

// checkPublic refuses the zero key and keys of low order. It ignores the highest bit, as curve
// operations do (RFC 7748, section 5).
func checkPublic(k [Size]byte) error {
	if k == [Size]byte{} {
		return errZero
	}
	k[Size-1] &= 0x7f
	for i := range lowOrder {
		if k == lowOrder[i] {
			return errLowOrder
		}
	}
	return nil
}

// Check returns an error if no node can have the key: it is zero or of low order.
func (k NodePublic) Check() error { return checkPublic(k) }
