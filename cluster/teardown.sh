#!/usr/bin/env bash
# Remove what setup.sh and `ray up` have made: instances that still run, firewall, key pair, roles.
# What is in the bucket stays, and so do Ray's token (~/.ray/auth_token), which other clusters of
# yours may use, and the account's own role for spot instances.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=settings.sh
. settings.sh

# Run a command that removes something; it may be gone already, or in use by what is just going.
remove() {
  local answer
  for _ in {1..24}; do
    answer=$("$@" 2>&1) && return
    case $answer in
      *NoSuchEntity* | *NotFound*) return 0 ;;
      *DependencyViolation*) sleep 5 ;;
      *) break ;;
    esac
  done
  echo "error: $answer" >&2
  exit 1
}

list_instances() {
  aws ec2 describe-instances --query "Reservations[].Instances[].InstanceId" --output text \
    --filters "Name=tag:ray-cluster-name,Values=$CLUSTER_NAME" \
    Name=instance-state-name,Values=pending,running,stopping,stopped,shutting-down
}

# again until there are none: a head starts workers until it is gone itself
instances=$(list_instances)
while [ -n "$instances" ]; do
  echo "Terminating $instances"
  # shellcheck disable=SC2086 # a list
  aws ec2 terminate-instances --instance-ids $instances >/dev/null
  # shellcheck disable=SC2086
  aws ec2 wait instance-terminated --instance-ids $instances
  instances=$(list_instances)
done

# setup.sh made it in the default VPC; one of that name in another is not ours
vpc=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true \
  --query "Vpcs[0].VpcId" --output text)
groups=$(aws ec2 describe-security-groups --query "SecurityGroups[].GroupId" --output text \
  --filters "Name=group-name,Values=$CLUSTER_NAME" "Name=vpc-id,Values=$vpc")
for group in $groups; do
  remove aws ec2 delete-security-group --group-id "$group"
done

# `ray up` made it, with such a number if there was one whose file it had not
keys=$(aws ec2 describe-key-pairs --query "KeyPairs[].KeyName" --output text \
  --filters "Name=key-name,Values=$CLUSTER_NAME,${CLUSTER_NAME}_key-*")
for key in $keys; do
  remove aws ec2 delete-key-pair --key-name "$key"
  rm -f ~/.ssh/"$key.pem"
done

for node in head worker; do
  role=$CLUSTER_NAME-$node
  remove aws iam remove-role-from-instance-profile --instance-profile-name "$role" --role-name "$role"
  remove aws iam delete-instance-profile --instance-profile-name "$role"
  remove aws iam delete-role-policy --role-name "$role" --policy-name storage
  remove aws iam delete-role-policy --role-name "$role" --policy-name autoscaler
  remove aws iam delete-role --role-name "$role"
done
rm -f rendered.yaml
echo "Nothing of $CLUSTER_NAME is left in $AWS_DEFAULT_REGION."
