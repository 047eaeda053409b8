/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Process 1 of the tty image.
 *
 * Theory of operation
 *
 * In this order: one line on the console (so that a bench can see when init starts), mounts, lo and
 * eth0 up, the weft.* parameters of the kernel command line, the agent, a shell on the console.
 * Then one loop: reap processes, start the agent and the shell again when they end, and act on
 * signals: SIGUSR2 powers off, SIGTERM reboots, SIGUSR1 halts (busybox's poweroff, reboot and halt
 * send these, and so does the agent).
 *
 * Parameters of the kernel command line, applied in this order; weft.ip and weft.gw may be
 *repeated:
 *
 *	weft.hostname=NAME		host name, 1 to 64 characters
 *	weft.ip=ADDRESS/PREFIX		address of eth0, IPv4 or IPv6
 *	weft.gw=ADDRESS			default gateway by eth0, IPv4 or IPv6
 *
 * Any other word that begins with "weft." is named on the console and ignored.
 *
 * Nothing here is fatal: what cannot be done is said on the console, and init goes on. A service
 * that ends within RESPAWN_SECONDS of its start is started again only after that time.
 *
 * Shutting down: SIGTERM and SIGHUP to everything, up to STOP_SECONDS for it to end, SIGKILL, sync,
 * reboot(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "network.h"

#define STARTED_LINE	"weft: init\n"
#define RESPAWN_SECONDS 1
#define STOP_SECONDS	2
#define STOP_STEP_NS	100000000 /* how often a stop looks at the clock */
#define CMDLINE_MAX	4096
#define WORDS_MAX	32     /* weft.* parameters on the command line */
#define DEVICE		"eth0" /* what weft.ip and weft.gw configure */

extern char **environ;

struct service {
	const char *path;
	char *const *argv;
	bool on_console; /* has the console as controlling terminal */
	pid_t pid;	 /* 0: not running */
	time_t started;	 /* CLOCK_MONOTONIC, seconds */
};

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

static void complain(const char *what, const char *which, int error)
{
	fprintf(stderr, "weft: %s '%s': %s\n", what, which, strerror(error));
}

static void file_systems_mount(void)
{
	static const struct {
		const char *type, *target, *data;
		bool optional;
	} mounts[] = {
	    {"proc", "/proc", NULL, false},
	    {"sysfs", "/sys", NULL, false},
	    {"devtmpfs", "/dev", "mode=0755", false},
	    {"devpts", "/dev/pts", "mode=0620,ptmxmode=0666", true},
	    {"tmpfs", "/dev/shm", "mode=1777", true},
	    {"tmpfs", "/tmp", "mode=1777", true},
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i].target, 0755);
		if (mount(mounts[i].type, mounts[i].target, mounts[i].type, MS_NOSUID,
			  mounts[i].data) < 0 &&
		    errno != EBUSY && !mounts[i].optional)
			complain("cannot mount", mounts[i].target, errno);
	}
}

/*
 * The kernel derives TCP's largest buffers from the memory: with 96 MiB, 600 kB, of which half is
 * window, some six super-frames. A stream then waits for its own acknowledgements.
 */
static void tcp_buffers_enlarge(void)
{
	static const struct {
		const char *path, *sizes; /* smallest, first, largest, in bytes */
	} limits[] = {
	    {"/proc/sys/net/ipv4/tcp_rmem", "4096 131072 4194304"},
	    {"/proc/sys/net/ipv4/tcp_wmem", "4096 65536 4194304"},
	};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		int fd = open(limits[i].path, O_WRONLY | O_CLOEXEC);
		const size_t size = strlen(limits[i].sizes);

		if (fd < 0 || write(fd, limits[i].sizes, size) != (ssize_t)size)
			complain("cannot set", limits[i].path, errno);
		if (fd >= 0)
			close(fd);
	}
}

/* Descriptors 0 to 2 exist even where the kernel found no console. */
static void descriptors_open(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

static size_t file_read(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = -1;

	if (fd >= 0) {
		length = read(fd, text, size - 1);
		close(fd);
	}
	text[length > 0 ? length : 0] = '\0';
	return strlen(text);
}

static void hostname_set(const char *name)
{
	if (*name == '\0' || sethostname(name, strlen(name)) < 0)
		fprintf(stderr, "weft: weft.hostname= wants 1 to 64 characters, not '%s'\n", name);
}

static void address_add(const char *text)
{
	int result = network_address_add(DEVICE, text);

	if (result == -EINVAL)
		fprintf(stderr, "weft: weft.ip= wants ADDRESS/PREFIX, not '%s'\n", text);
	else if (result < 0)
		complain("cannot give " DEVICE " the address of weft.ip=", text, -result);
}

static void gateway_add(const char *text)
{
	int result = network_gateway_add(DEVICE, text);

	if (result == -EINVAL)
		fprintf(stderr, "weft: weft.gw= wants ADDRESS, not '%s'\n", text);
	else if (result < 0)
		complain("cannot use the gateway of weft.gw=", text, -result);
}

static const struct parameter {
	const char *name;
	void (*apply)(const char *value);
} parameters[] = {
    {"weft.hostname=", hostname_set},
    {"weft.ip=", address_add},
    {"weft.gw=", gateway_add},
};

#define PARAMETERS (sizeof(parameters) / sizeof(parameters[0]))

/* Returns the parameter that @word sets, or NULL. */
static const struct parameter *parameter_of(const char *word)
{
	for (size_t i = 0; i < PARAMETERS; i++) {
		if (strncmp(word, parameters[i].name, strlen(parameters[i].name)) == 0)
			return &parameters[i];
	}
	return NULL;
}

/* Collects the weft.* words of @line, which it cuts up, and names those that mean nothing. */
static size_t words_collect(char *line, const char *words[WORDS_MAX])
{
	size_t count = 0;
	char *word;

	while (count < WORDS_MAX && (word = strsep(&line, " \t\n"))) {
		if (strncmp(word, "weft.", 5) != 0)
			continue;
		if (parameter_of(word))
			words[count++] = word;
		else
			fprintf(stderr,
				"weft: unknown parameter '%s' ignored; there are "
				"weft.hostname=, weft.ip= and weft.gw=\n",
				word);
	}
	return count;
}

/* Applies the parameters in the order of the table, whatever their order on the command line. */
static void parameters_apply(void)
{
	const char *words[WORDS_MAX];
	char line[CMDLINE_MAX];
	size_t count;

	file_read("/proc/cmdline", line, sizeof(line));
	count = words_collect(line, words);
	for (size_t i = 0; i < PARAMETERS; i++) {
		for (size_t j = 0; j < count; j++) {
			if (parameter_of(words[j]) == &parameters[i])
				parameters[i].apply(words[j] + strlen(parameters[i].name));
		}
	}
}

static void network_start(void)
{
	int result = network_link_up("lo");

	if (result < 0)
		complain("cannot bring up", "lo", -result);
	result = network_link_up(DEVICE);
	if (result < 0 && result != -ENODEV)
		complain("cannot bring up", DEVICE, -result);
}

/*
 * Finds the terminal that the kernel uses as console: /dev/console itself cannot be a controlling
 * terminal. Returns whether there is one.
 */
static bool console_find(char *device, size_t size)
{
	char names[128];
	char *name;
	int bits, fd;
	bool works;

	file_read("/sys/class/tty/console/active", names, sizeof(names));
	names[strcspn(names, "\n")] = '\0';
	name = strrchr(names, ' ') ? strrchr(names, ' ') + 1 : names;
	snprintf(device, size, "/dev/%s", *name ? name : "ttyS0");
	fd = open(device, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return false;
	/* A serial driver offers ports that do not exist. They open, and answer everything with
	 * EIO. */
	works = ioctl(fd, TIOCMGET, &bits) == 0 || errno != EIO;
	close(fd);
	return works;
}

/* Starts a program in a session of its own, with @console (if not NULL) as controlling terminal. */
static int program_spawn(pid_t *pid, const struct service *service, const char *console)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int error = 0;

	sigemptyset(&none);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	if (console)
		error =
		    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, console, O_RDWR, 0);
	if (console && error == 0)
		error = posix_spawn_file_actions_adddup2(&actions, STDIN_FILENO, STDOUT_FILENO);
	if (console && error == 0)
		error = posix_spawn_file_actions_adddup2(&actions, STDIN_FILENO, STDERR_FILENO);
	if (error == 0)
		error =
		    posix_spawn(pid, service->path, &actions, &attributes, service->argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return error;
}

static void service_start(struct service *service)
{
	char console[140];
	pid_t pid = 0;
	int error;

	if (service->on_console && !console_find(console, sizeof(console)))
		return;
	service->started = now();
	error = program_spawn(&pid, service, service->on_console ? console : NULL);
	if (error)
		complain("cannot start", service->path, error);
	else
		service->pid = pid;
}

/* Starts what should run and does not. Returns the seconds until it has to be called, or -1. */
static int services_start(struct service *services, size_t count)
{
	int wait = -1;

	for (size_t i = 0; i < count; i++) {
		struct service *service = &services[i];

		if (service->pid)
			continue;
		if (service->started && now() - service->started < RESPAWN_SECONDS)
			wait = RESPAWN_SECONDS;
		else
			service_start(service);
	}
	return wait;
}

static void processes_reap(struct service *services, size_t count)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
		for (size_t i = 0; i < count; i++) {
			if (services[i].pid == pid)
				services[i].pid = 0;
		}
	}
}

static void processes_stop(const sigset_t *signals)
{
	const struct timespec step = {.tv_nsec = STOP_STEP_NS};
	time_t end = now() + STOP_SECONDS;

	kill(-1, SIGTERM);
	kill(-1, SIGHUP);
	kill(-1, SIGCONT);
	for (;;) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0 || now() > end)
			break;
		if (pid == 0)
			sigtimedwait(signals, NULL, &step);
	}
	kill(-1, SIGKILL);
}

static void machine_stop(int how, const sigset_t *signals)
{
	processes_stop(signals);
	sync();
	reboot(how);
}

/* Blocks the signals that the main loop waits for. */
static void signals_block(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGCHLD);
	sigaddset(signals, SIGTERM);
	sigaddset(signals, SIGUSR1);
	sigaddset(signals, SIGUSR2);
	sigprocmask(SIG_BLOCK, signals, NULL);
}

/* Waits for a signal, at most @seconds (-1: for ever), and acts on it. */
static void signal_serve(const sigset_t *signals, int seconds)
{
	const struct timespec limit = {.tv_sec = seconds};

	switch (sigtimedwait(signals, NULL, seconds < 0 ? NULL : &limit)) {
	case SIGTERM:
		machine_stop(RB_AUTOBOOT, signals);
		break;
	case SIGUSR1:
		machine_stop(RB_HALT_SYSTEM, signals);
		break;
	case SIGUSR2:
		machine_stop(RB_POWER_OFF, signals);
		break;
	}
}

static void environment_set(void)
{
	setenv("HOME", "/root", 1);
	setenv("USER", "root", 1);
	setenv("TERM", "vt102", 1);
	mkdir("/root", 0700);
	if (chdir("/root") < 0)
		complain("cannot enter", "/root", errno);
}

int main(void)
{
	static char *const agent_argv[] = {"weft-agent", NULL};
	static char *const shell_argv[] = {"-sh", NULL};
	struct service services[] = {
	    {.path = "/bin/weft-agent", .argv = agent_argv},
	    {.path = "/bin/sh", .argv = shell_argv, .on_console = true},
	};
	const size_t count = sizeof(services) / sizeof(services[0]);
	sigset_t signals;

	/* Without a console there is nobody to tell. */
	(void)!write(STDOUT_FILENO, STARTED_LINE, strlen(STARTED_LINE));
	signals_block(&signals);
	file_systems_mount();
	tcp_buffers_enlarge();
	descriptors_open();
	environment_set();
	network_start();
	parameters_apply();
	for (;;) {
		processes_reap(services, count);
		signal_serve(&signals, services_start(services, count));
	}
}
