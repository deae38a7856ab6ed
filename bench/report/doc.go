// Package report turns the figures of many trials into tables of medians, ratios compared with the
// bars, charts, and a page with all of them. Its output depends only on the figures.
package report
