package userstack

// ring is a queue that grows to what was once needed.
type ring[T any] struct {
	items []T
	head  int
	n     int
}

func (r *ring[T]) push(x T) {
	if r.n == len(r.items) {
		grown := make([]T, max(8, 2*len(r.items)))
		for i := range r.n {
			grown[i] = r.items[(r.head+i)%len(r.items)]
		}
		r.items, r.head = grown, 0
	}
	r.items[(r.head+r.n)%len(r.items)] = x
	r.n++
}

// first is what pop would return.
func (r *ring[T]) first() (x T) {
	if r.n > 0 {
		x = r.items[r.head]
	}
	return x
}

// pop returns the zero value if there is nothing.
func (r *ring[T]) pop() (x T) {
	if r.n == 0 {
		return x
	}
	x, r.items[r.head] = r.items[r.head], x
	r.head = (r.head + 1) % len(r.items)
	r.n--
	return x
}
