#!/usr/bin/env bash
# Create what the cluster needs besides instances, and write cluster/rendered.yaml for `ray up`.
# Run it again after every change of settings.sh, iam/ or aws.yaml: what is there stays, or is set
# to what the files say.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=settings.sh
. settings.sh
: "${BUCKET:?is empty: set it in cluster/settings.sh}"

fail() {
  echo "error: $*" >&2
  exit 1
}

# Roles and instance profiles: what the nodes may do.
create_role() {
  local role=$1 profiled
  aws iam get-role --role-name "$role" >/dev/null 2>&1 ||
    aws iam create-role --role-name "$role" \
      --assume-role-policy-document file://iam/trust.json >/dev/null
  aws iam update-assume-role-policy --role-name "$role" --policy-document file://iam/trust.json
  aws iam get-instance-profile --instance-profile-name "$role" >/dev/null 2>&1 ||
    aws iam create-instance-profile --instance-profile-name "$role" >/dev/null
  profiled=$(aws iam get-instance-profile --instance-profile-name "$role" \
    --query "InstanceProfile.Roles[0].RoleName" --output text)
  [ "$profiled" = "$role" ] ||
    aws iam add-role-to-instance-profile --instance-profile-name "$role" --role-name "$role"
}

put_policy() {
  local role=$1 name=$2 document
  document=$(python3 render.py "iam/$name.json")
  aws iam put-role-policy --role-name "$role" --policy-name "$name" --policy-document "$document"
}

# The firewall: the nodes reach each other, you reach SSH, nobody else reaches anything.
allow() {
  local answer
  answer=$(aws ec2 authorize-security-group-ingress --group-id "$SECURITY_GROUP" \
    --ip-permissions "$1" 2>&1) || case $answer in
    *InvalidPermission.Duplicate*) ;;
    *) fail "$answer" ;;
  esac
}

for program in aws curl python3 ray; do
  command -v "$program" >/dev/null || fail "$program is not installed, or not on PATH."
done
region=$(aws s3api head-bucket --bucket "$BUCKET" --query BucketRegion --output text) ||
  fail "cannot open the bucket $BUCKET: see BUCKET and AWS_DEFAULT_REGION in cluster/settings.sh."
case $region in
  "$AWS_DEFAULT_REGION" | None) ;; # None: an AWS CLI that does not say
  *) fail "the bucket $BUCKET is in $region: set AWS_DEFAULT_REGION to it in cluster/settings.sh." ;;
esac
ACCOUNT=$(aws sts get-caller-identity --query Account --output text)
vpc=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true \
  --query "Vpcs[0].VpcId" --output text)
[ "$vpc" != None ] || fail "no default VPC in $AWS_DEFAULT_REGION: aws ec2 create-default-vpc"
[ -n "$SSH_CIDR" ] || SSH_CIDR=$(curl -fsS https://checkip.amazonaws.com)/32
case $SSH_CIDR in
  */0) fail "SSH_CIDR is $SSH_CIDR, which is everybody. Set your own in cluster/settings.sh." ;;
esac

SECURITY_GROUP=$(aws ec2 describe-security-groups --query "SecurityGroups[0].GroupId" \
  --output text --filters "Name=group-name,Values=$CLUSTER_NAME" "Name=vpc-id,Values=$vpc")
if [ "$SECURITY_GROUP" = None ]; then
  SECURITY_GROUP=$(aws ec2 create-security-group --query GroupId --output text \
    --group-name "$CLUSTER_NAME" --vpc-id "$vpc" --description "Ray cluster $CLUSTER_NAME")
  # EC2 shows a new group only after some seconds.
  aws ec2 wait security-group-exists --group-ids "$SECURITY_GROUP"
fi
earlier=$(aws ec2 describe-security-groups --group-ids "$SECURITY_GROUP" --output json \
  --query "SecurityGroups[0].IpPermissions[?IpProtocol=='tcp']")
if [ "$earlier" != "[]" ]; then # your address may have changed
  aws ec2 revoke-security-group-ingress --group-id "$SECURITY_GROUP" \
    --ip-permissions "$earlier" >/dev/null
fi
allow '[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "'"$SECURITY_GROUP"'"}]}]'
allow '[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22,
  "IpRanges": [{"CidrIp": "'"$SSH_CIDR"'"}]}]'

# A cluster keeps its image: `ray up` would replace the head of one that runs by one of another.
if [ -z "$AMI" ] && grep -qs "region: $AWS_DEFAULT_REGION\$" rendered.yaml; then
  AMI=$(sed -n '/ImageId: /{s/.*: //p;q;}' rendered.yaml)
fi
[ -n "$AMI" ] ||
  AMI=$(aws ssm get-parameter --query Parameter.Value --output text --name \
    /aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id)

export ACCOUNT SECURITY_GROUP AMI MAX_WORKERS=$((MAX_GPU_WORKERS + MAX_CPU_WORKERS))
for node in head worker; do
  create_role "$CLUSTER_NAME-$node"
  put_policy "$CLUSTER_NAME-$node" storage
done
put_policy "$CLUSTER_NAME-head" autoscaler
# Lets the account use spot instances at all; it has it once somebody has used them.
spot=spot.amazonaws.com
[ "$(aws iam list-roles --path-prefix "/aws-service-role/$spot/" \
  --query "length(Roles)" --output text)" != 0 ] ||
  aws iam create-service-linked-role --aws-service-name "$spot" >/dev/null

# The token that Ray's API asks for, readable by you alone. `ray up` copies it to the nodes.
token=~/.ray/auth_token
[ -s "$token" ] || (umask 077 && ray get-auth-token --generate >/dev/null)
chmod 600 "$token"

python3 render.py aws.yaml >rendered.yaml
echo "SSH from $SSH_CIDR, image $AMI. Next: ray up -y cluster/rendered.yaml"
