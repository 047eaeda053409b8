/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The console
 *
 * Theory of operation: a line is put together in memory and handed to the serial port by one string
 * instruction: KVM goes through the bytes without entering the guest in between. The transmitter of
 * a virtual machine is never full, so nobody waits for it. A lock keeps the lines of several vCPUs
 * apart; panic() goes past it, because the vCPU that panics may hold it.
 */
#include "internal.h"

#define LINE_MAX 512

struct output {
	char *at, *end; /* bytes past the end are counted, not stored */
	int len;
};

static void output_char(struct output *out, char c)
{
	if (out->at < out->end)
		*out->at++ = c;
	out->len++;
}

static void output_padded(struct output *out, const char *text, int len, int width, char pad)
{
	for (int i = len; i < width; i++)
		output_char(out, pad);
	for (int i = 0; i < len; i++)
		output_char(out, text[i]);
}

static void output_number(struct output *out, uint64_t value, bool negative, unsigned base,
			  int width, char pad)
{
	char digits[24];
	int start = sizeof(digits);

	do {
		digits[--start] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	if (negative)
		digits[--start] = '-';
	output_padded(out, digits + start, (int)sizeof(digits) - start, width, pad);
}

/* One conversion behind its '%'; returns what follows it. */
static const char *output_conversion(struct output *out, const char *format, va_list *args)
{
	char pad = *format == '0' ? '0' : ' ', c;
	const char *text;
	bool wide = false;
	int width = 0;
	int64_t number;

	for (; *format >= '0' && *format <= '9'; format++)
		width = width * 10 + (*format - '0');
	for (; *format == 'l' || *format == 'z'; format++)
		wide = true;
	switch (*format) {
	case 'd':
	case 'i':
		number = wide ? va_arg(*args, int64_t) : va_arg(*args, int);
		output_number(out, (uint64_t)(number < 0 ? -number : number), number < 0, 10, width,
			      pad);
		break;
	case 'u':
	case 'x':
		output_number(out, wide ? va_arg(*args, uint64_t) : va_arg(*args, unsigned), false,
			      *format == 'u' ? 10 : 16, width, pad);
		break;
	case 'p':
		output_number(out, (uintptr_t)va_arg(*args, void *), false, 16, width, pad);
		break;
	case 's':
		text = va_arg(*args, const char *);
		output_padded(out, text, (int)strlen(text), width, ' ');
		break;
	case 'c':
		c = (char)va_arg(*args, int);
		output_padded(out, &c, 1, width, ' ');
		break;
	default:
		output_char(out, *format);
	}
	return format + 1;
}

int vsnprintf(char *text, size_t size, const char *format, va_list list)
{
	struct output out = {text, size ? text + size - 1 : text, 0};
	va_list args;

	va_copy(args, list);
	while (*format) {
		if (*format == '%')
			format = output_conversion(&out, format + 1, &args);
		else
			output_char(&out, *format++);
	}
	va_end(args);
	if (size)
		*out.at = '\0';
	return out.len;
}

int snprintf(char *text, size_t size, const char *format, ...)
{
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(text, size, format, args);
	va_end(args);
	return len;
}

void printf(const char *format, ...)
{
	static char line[LINE_MAX];
	static bool locked; /* whoever holds it owns the line */
	va_list args;

	while (__atomic_exchange_n(&locked, true, __ATOMIC_ACQUIRE))
		cpu_relax();
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	port_write_string(WEFT_PORT_SERIAL, line, strlen(line));
	__atomic_store_n(&locked, false, __ATOMIC_RELEASE);
}

_Noreturn void panic(const char *format, ...)
{
	char text[LINE_MAX], line[LINE_MAX + 8];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(line, sizeof(line), "panic: %s\n", text);
	port_write_string(WEFT_PORT_SERIAL, line, strlen(line));
	port_write8(WEFT_PORT_PANIC, 1);
	guest_exit(1);
}
