/* cmd.h - the commands of peerd: one file each.  argv[0] is "peerd NAME"; the return value is
 * the exit status. */
#ifndef PD_CMD_H
#define PD_CMD_H

int pd_cmd_init(int argc, char **argv);
int pd_cmd_rebase(int argc, char **argv);
int pd_cmd_join(int argc, char **argv);
int pd_cmd_run(int argc, char **argv);
int pd_cmd_fit(int argc, char **argv);
int pd_cmd_verify(int argc, char **argv);
int pd_cmd_export(int argc, char **argv);
int pd_cmd_eval(int argc, char **argv);
int pd_cmd_generate(int argc, char **argv);

#endif
