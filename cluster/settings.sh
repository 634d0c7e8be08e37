# shellcheck shell=bash
# The one place that says where the cluster is and what it may touch. No secrets.
# cluster/setup.sh and cluster/teardown.sh read it; `source cluster/settings.sh` gives your shell
# what `ray job submit` needs.

# Must exist, in this region, which has to offer the instance types of aws.yaml.
export BUCKET=
export AWS_DEFAULT_REGION=us-west-2
export AWS_REGION=$AWS_DEFAULT_REGION # the AWS CLI would prefer another that is set

# Folders of the bucket: the cluster reads the first, and writes the other two.
export INPUT_PREFIX=scans
export OUTPUT_PREFIX=labels
export MODELS_PREFIX=models

# Names everything: roles, firewall, key pair, instances. Roles are the account's: in another region
# take another name.
export CLUSTER_NAME=mnist-ocr
# At most so many instances of each type with GPUs, and of each without; together at most the sum.
# A GPU worker has 4 vCPUs, a CPU worker 8.
export MAX_GPU_WORKERS=4
export MAX_CPU_WORKERS=4
export IDLE_TIMEOUT_MINUTES=10

# From where SSH is let in, such as 203.0.113.7/32; empty: from where setup.sh is run.
export SSH_CIDR=
# x86_64, Ubuntu 24.04 (Python 3.12), NVIDIA driver 580 or newer; empty: AWS's newest such image.
export AMI=

# The near end of the tunnel that `ray dashboard` opens.
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 RAY_AUTH_MODE=token
# another cluster's token would be taken before the one in ~/.ray/auth_token
unset RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH
